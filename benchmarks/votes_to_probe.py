"""From votes to a probe: what crowd labels cost, on synthetic plants whose truth is known.

A simulated crowd votes on the training photographs; `umbel votes aggregate` makes labels of the votes, the shards are
written again with them (only what is valid), and a 5-shot probe asks the test photographs, whose labels are true.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from umbel.backbones import load
from umbel.cli import main as umbel
from umbel.data.index import ShardSet, open_shards
from umbel.data.reader import ShardReader
from umbel.data.votes.labels_file import read_labels
from umbel.data.votes.simulate import CrowdConfig, simulate
from umbel.data.votes.write import write_table
from umbel.data.write import Sample, plan_shards, write_shards
from umbel.evaluation.baselines import baseline_embeddings
from umbel.evaluation.embed import embed
from umbel.evaluation.probe_rows import ProbeRow, probe

STRATEGIES = ("majority", "two-thirds", "plantnet")


@dataclass(frozen=True, eq=False)
class Relabeled:
    """Makes a sample from a stored one, with another label."""

    shards: ShardSet
    labels: Mapping[str, int]

    def __call__(self, sample: int) -> Sample:
        key = self.shards.key(sample)
        return Sample(key=key, jpg=ShardReader(self.shards).read(sample, "jpg"), label=self.labels[key])


def relabel(shards: ShardSet, out: Path, labels: Mapping[str, int]) -> ShardSet:
    """Write shards again: of train the samples that `labels` names, of test all with their own label."""
    split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
    own = {shards.key(row): int(shards.members["label"][row]) for row in np.flatnonzero(split == "test")}
    labels = {**own, **labels}
    rows = {
        name: [int(row) for row in np.flatnonzero(split == name) if shards.key(int(row)) in labels]
        for name in ("train", "test")
    }
    plan = [shard for name, items in rows.items() for shard in plan_shards(name, items, 1000)]
    write_shards(
        out,
        plan,
        Relabeled(shards, labels),
        source={"source": "relabeled"},
        classes=shards.classes,
        workers=1,
        max_bad=0.0,
        force=False,
        title="writing shards",
    )
    return open_shards(str(out))


def crowd_labels(shards: ShardSet, truth: Mapping[str, int], folder: Path, seed: int) -> dict[str, dict[str, int]]:
    """Votes on the keys, aggregated by the command, and its labels files read: strategy -> key -> label."""
    keys = np.array(list(truth), dtype=object)
    crowd = simulate(
        CrowdConfig(
            observations=len(keys), users=max(len(keys) // 8, 50), species=len(shards.classes), experts=0.01, seed=seed
        ),
        np.array(list(truth.values())),
    )
    names = np.array(shards.classes, dtype=object)
    columns = {
        "observation": pa.array(keys[crowd.observation]),
        "user": pa.array(crowd.user),
        "species": pa.array(names[crowd.label]),
        "author": pa.array(crowd.author[crowd.observation]),
    }
    write_table(folder / "votes.parquet", pa.table(columns))
    found = {}
    for strategy in STRATEGIES:
        command = ["votes", "aggregate", str(folder / "votes.parquet"), "--strategy", strategy]
        assert umbel([*command, "--out", str(folder / strategy)]) == 0
        labels = read_labels(folder / strategy)
        found[strategy] = {key: shards.classes.index(str(row.label)) for key, row in labels.items() if row.valid}
    return found


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="a run or a folder with a backbone, beside the color histogram")
    parser.add_argument("--train", type=int, default=6000, help="photographs that the crowd votes on")
    parser.add_argument("--test", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = ["--train", str(options.train), "--test", str(options.test), "--seed", str(options.seed)]
        assert umbel(["shards", "make", "synthetic", "--out", str(folder / "plants"), *sizes]) == 0
        shards = open_shards(str(folder / "plants"))
        split = np.array([shard.split for shard in shards.shards])[shards.members["shard"]]
        truth = {shards.key(int(row)): int(shards.members["label"][row]) for row in np.flatnonzero(split == "train")}
        labels = {"truth": truth, **crowd_labels(shards, truth, folder, options.seed)}
        lines = []
        for name, told in labels.items():
            right = np.mean([truth[key] == label for key, label in told.items()])
            lines += [
                (name, len(told), right, row)
                for row in measured(relabel(shards, folder / f"{name} shards", told), options.backbone)
            ]
        print(f"\n{'labels':<12} {'photographs':>11} {'right':>8}  {'features':<16} {'5-shot':>14} {'20-NN':>8}")
        for name, count, right, row in lines:
            accuracy = f"{100 * row.mean:.1f} ± {100 * row.interval:.1f} %"
            print(f"{name:<12} {count:>11,} {right:>8.1%}  {row.name:<16} {accuracy:>14} {row.knn:>8.1%}")


def measured(shards: ShardSet, backbone: str | None) -> list[ProbeRow]:
    """5-shot and k-NN accuracy of the features of shards."""
    features = {"color histogram": baseline_embeddings(shards)["color histogram"]}
    if backbone is not None:
        features["backbone"] = embed(load(backbone), shards, device="cpu", batch=256, workers=0)
    return probe(features, shots=5, draws=50, seed=0, k=20)


if __name__ == "__main__":
    main()
