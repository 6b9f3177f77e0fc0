"""Codes of every method on frozen features beside the float features: mAP by bits, over seeds, in one run.

python benchmarks/hashing.py BACKBONE SHARDS [--bits 16 32 64 128] [--seeds 0 1 2 3 4] [--json FILE]

Three kinds of feature, so that the result does not hang on one: the backbone's, the color histogram, and raw pixels
(their first 256 principal components). Queries are the test split, the database train and val; CroVCA sees augmented
views of all photographs but the queries, and, supervised, their labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from torch import Tensor, nn

from umbel.backbones import Backbone, load
from umbel.data.index import ShardSet, open_shards
from umbel.evaluation import baselines
from umbel.evaluation.embed import embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import (
    BASELINES,
    Convention,
    CrovcaConfig,
    Hasher,
    PhotographViewsConfig,
    fit_crovca,
    make_task,
    score_features,
    score_hasher,
    view_embeddings,
)

PIXEL_COMPONENTS = 256
Fit = Callable[[int, int], Hasher]
"""(bits, seed) -> a fitted method."""


class Described(nn.Module):
    """A baseline's features of views that are not normalized."""

    def __init__(self, describe: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.describe = describe

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.describe(image.mul(255).round().byte()) for image in images])


def main() -> None:
    """Measure every feature, method and number of bits, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone")
    parser.add_argument("shards")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=CrovcaConfig().least_steps, help="least steps of CroVCA")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    setting = measuring.setting(torch.device("cpu"))
    print(measuring.in_words(setting))
    shards, backbone = open_shards(options.shards), load(options.backbone)
    found = []
    for name, embeddings, views, label in every_feature(backbone, shards):
        task = make_task(embeddings.label, embeddings.split, embeddings.splits)
        convention = Convention(k=min(1000, len(task.database)))
        floats = {score.name: 100 * score.map for score in score_features(embeddings.features, task, convention)}
        print(f"\n{name}, width {embeddings.features.shape[1]}, {convention}, {len(task.queries)} queries")
        print(", ".join(f"{kind} {value:.1f}" for kind, value in floats.items()), flush=True)
        rows = np.flatnonzero(np.array(embeddings.splits)[embeddings.split] != "test")
        for method, fit in methods(embeddings.features[rows], views, label, options.steps).items():
            for bits in options.bits:
                scores, seconds = [], []
                for seed in options.seeds:
                    started = time.perf_counter()
                    hasher = fit(bits, seed)
                    seconds.append(time.perf_counter() - started)
                    both = score_hasher(method, hasher, embeddings.features, task, convention)
                    scores.append([100 * score.map for score in both])
                found.append(line(name, method, bits, scores, seconds, max(floats.values())))
                print(in_words(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "rows": found}, indent=1) + "\n")


def every_feature(backbone: Backbone, shards: ShardSet) -> Iterator[tuple[str, Embeddings, Tensor, Tensor]]:
    """Name, embeddings of all labeled photographs, (R, N, C) of views to train on, (N,) their labels."""
    trained = shards.select([split for split in dict.fromkeys(s.split for s in shards.shards) if split != "test"])
    plain = baselines.baseline_embeddings(shards)
    views, samples = view_embeddings(backbone, trained, config=PhotographViewsConfig())
    label = trained.members["label"][samples].astype(np.int64)
    yield "backbone", embed(backbone, shards, device="cpu"), views, torch.from_numpy(label)
    for name, describe in baselines.BASELINES.items():
        card = dataclasses.replace(backbone.card, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        embeddings = plain[name]
        width = embeddings.features.shape[1]
        described = dataclasses.replace(backbone, model=Described(describe), dim=width, card=card)
        views, samples = view_embeddings(described, trained, config=PhotographViewsConfig())
        label = trained.members["label"][samples].astype(np.int64)
        if width > 1024:
            mean = views.flatten(0, 1).mean(0)
            components = torch.pca_lowrank(views.flatten(0, 1) - mean, PIXEL_COMPONENTS, center=False)[2]
            views = (views - mean) @ components
            features = ((torch.from_numpy(embeddings.features) - mean) @ components).numpy()
            embeddings = dataclasses.replace(embeddings, features=features)
        yield name, embeddings, views, torch.from_numpy(label)


def methods(features: np.ndarray, views: Tensor, label: Tensor, steps: int) -> dict[str, Fit]:
    """Every method by name."""
    config = CrovcaConfig(least_steps=steps)

    def baseline(kind: Any) -> Fit:
        return lambda bits, seed: kind(bits, seed=seed).fit(features)

    found: dict[str, Fit] = {name: baseline(kind) for name, kind in BASELINES.items()}
    found["crovca"] = lambda bits, seed: fit_crovca(views, bits=bits, seed=seed, config=config)
    found["crovca, supervised"] = lambda bits, seed: fit_crovca(
        views, bits=bits, labels=label, seed=seed, config=config
    )
    return found


def line(
    feature: str, method: str, bits: int, scores: list[list[float]], seconds: list[float], best: float
) -> dict[str, Any]:
    """Means and deviations over seeds."""
    symmetric, asymmetric = (list(column) for column in zip(*scores, strict=True))
    return {
        "feature": feature,
        "method": method,
        "bits": bits,
        "Hamming": statistics.mean(symmetric),
        "deviation": statistics.stdev(symmetric) if len(symmetric) > 1 else 0.0,
        "asymmetric": statistics.mean(asymmetric),
        "of float": statistics.mean(symmetric) / best,
        "seconds": statistics.median(seconds),
    }


def in_words(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['method']:20s} {row['bits']:4d} bits: Hamming {row['Hamming']:5.1f} ± {row['deviation']:.1f}, "
        f"asymmetric {row['asymmetric']:5.1f}, {100 * row['of float']:3.0f} % of float, {row['seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
