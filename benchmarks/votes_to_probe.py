"""From votes to a probe: what crowd labels cost, on synthetic plants whose truth is known.

A simulated crowd votes on the training photographs; `umbel votes aggregate` makes labels of the votes, `umbel shards
make csv --labels` puts them into shards, and a 5-shot probe asks the test photographs, whose labels are true.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from umbel.backbones import load
from umbel.cli import main as umbel
from umbel.data.index import ShardSet, open_shards
from umbel.data.join_labels import read_labels
from umbel.data.reader import ShardReader
from umbel.data.votes.simulate import CrowdConfig, simulate
from umbel.data.votes.write import write_table
from umbel.evaluation.baselines import baseline_embeddings
from umbel.evaluation.embed import embed
from umbel.evaluation.probe_rows import ProbeRow, probe

STRATEGIES = ("majority", "two-thirds", "plantnet")


def run(*arguments: object) -> None:
    """A command of Umbel's, which must succeed."""
    assert umbel([str(argument) for argument in arguments]) == 0


def unpack(shards: ShardSet, folder: Path) -> dict[str, tuple[str, str]]:
    """Write the photographs as files, listed in photographs.csv; key -> split and true species."""
    reader, told = ShardReader(shards), {}
    folder.mkdir()
    for sample in range(len(shards)):
        key = shards.key(sample)
        (folder / f"{key}.jpg").write_bytes(reader.read(sample, "jpg"))
        member = shards.members[sample]
        told[key] = (shards.shards[member["shard"]].split, shards.classes[member["label"]])
    with (folder / "photographs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "split", "label"))
        rows.writerows((f"{key}.jpg", split, species) for key, (split, species) in told.items())
    return told


def vote(truth: dict[str, str], classes: tuple[str, ...], folder: Path, seed: int) -> None:
    """A crowd's votes on photographs, as votes.parquet."""
    keys = np.array(list(truth), dtype=object)
    config = CrowdConfig(
        observations=len(keys), users=max(len(keys) // 8, 50), species=len(classes), experts=0.01, seed=seed
    )
    crowd = simulate(config, np.array([classes.index(species) for species in truth.values()]))
    columns = {
        "observation": pa.array(keys[crowd.observation]),
        "user": pa.array(crowd.user),
        "species": pa.array(np.array(classes, dtype=object)[crowd.label]),
        "author": pa.array(crowd.author[crowd.observation]),
    }
    write_table(folder / "votes.parquet", pa.table(columns))


def with_queries(labels: Path, told: dict[str, tuple[str, str]]) -> Path:
    """The labels that votes gave the training photographs, and the truth of the queries, in one file."""
    found = pa.parquet.read_table(labels / "labels.parquet", columns=["observation", "label", "valid", "conf", "acc"])
    path = labels / "with_queries.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(found.column_names)
        rows.writerows(row.values() for row in found.to_pylist())
        rows.writerows((key, species, True, "", "") for key, (split, species) in told.items() if split == "test")
    return path


def measured(shards: ShardSet, backbone: str | None) -> list[ProbeRow]:
    """5-shot and k-NN accuracy of the features of shards."""
    features = {"color histogram": baseline_embeddings(shards)["color histogram"]}
    if backbone is not None:
        features["backbone"] = embed(load(backbone), shards, device="cpu", batch=256, workers=0)
    return probe(features, shots=5, draws=50, seed=0, k=20)


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
        sizes = ("--train", options.train, "--test", options.test, "--seed", options.seed)
        run("shards", "make", "synthetic", "--out", folder / "plants", *sizes)
        plants = open_shards(str(folder / "plants"))
        told = unpack(plants, folder / "photographs")
        truth = {key: species for key, (split, species) in told.items() if split == "train"}
        vote(truth, plants.classes, folder, options.seed)
        make = ("shards", "make", "csv", folder / "photographs" / "photographs.csv", "--out")
        lines: list[tuple[str, int, float, ProbeRow]] = []
        run(*make, folder / "truth")
        rows = measured(open_shards(str(folder / "truth")), options.backbone)
        lines += [("truth", len(truth), 1.0, row) for row in rows]
        for strategy in STRATEGIES:
            run("votes", "aggregate", folder / "votes.parquet", "--strategy", strategy, "--out", folder / strategy)
            path = with_queries(folder / strategy, told)
            labels = read_labels(path)
            run(*make, folder / f"{strategy} shards", "--labels", path)
            given = {key: labels.names.row(key) for key in truth}
            names = {key: labels.codes[row] for key, row in given.items() if row is not None and labels.codes[row] >= 0}
            right = float(np.mean([labels.labels[code] == truth[key] for key, code in names.items()]))
            rows = measured(open_shards(str(folder / f"{strategy} shards")), options.backbone)
            lines += [(strategy, len(names), right, row) for row in rows]
        print(f"\n{'labels':<12} {'photographs':>11} {'right':>8}  {'features':<16} {'5-shot':>14} {'20-NN':>8}")
        for name, count, right, row in lines:
            accuracy = f"{100 * row.mean:.1f} ± {100 * row.interval:.1f} %"
            print(f"{name:<12} {count:>11,} {right:>8.1%}  {row.name:<16} {accuracy:>14} {row.knn:>8.1%}")


if __name__ == "__main__":
    main()
