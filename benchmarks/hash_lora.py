"""Does the hashing objective improve the encoder itself? Its features and codes before and after LoRA, in one run.

python benchmarks/hash_lora.py OUT --data SHARDS --backbone RUN [--seeds 0 1 2]

Three ways to hash: unsupervised, supervised, and beside the words of species' names. Queries are the test split, the
database train and val, and on these the coder is fitted too. Measured: mAP of the float features and of the codes,
5-shot accuracy of the float features (nearest class mean, support from the database), and zero-shot accuracy by words.
Before: the heads alone, on the frozen encoder. Rows go to OUT/hash_lora.json as they are made.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from torch import Tensor, nn

from umbel.backbones import Backbone, load
from umbel.data.index import ShardSet, open_shards
from umbel.evaluation.embed import embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.fewshot import nearest_centroid
from umbel.evaluation.hashing import Convention, CrovcaConfig, PhotographViewsConfig, make_task
from umbel.evaluation.hashing.evaluate import score_features, score_hasher
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.fitting import Fitting
from umbel.evaluation.hashing.lora import LoraConfig
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.photograph_views import view_embeddings
from umbel.evaluation.hashing.text_retrieval import score_texts
from umbel.machine import choose_device, choose_precision

WAYS: dict[str, dict[str, Any]] = {"unsupervised": {}, "supervised": {"supervised": True}, "names": {"pairs": "names"}}
SHOTS, DRAWS = 5, 20


class Quick(nn.Module):
    """A network in the precision that its device computes in: before and after are measured alike."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network.eval(), device
        self.bf16 = choose_precision("auto", device).value == "bf16"

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            features: Tensor = self.network(images)
        return features.float()


def main() -> None:
    """Fit every way with every seed, and print a table of before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="labeled shards with a test split")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="the first is the heads' alone")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=CrovcaConfig().least_steps, help="least steps of the heads alone")
    parser.add_argument("--learning-rate", type=float, default=LoraConfig().learning_rate, help="of the adapters")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = choose_device("auto").value
    setting = measuring.setting(torch.device(device))
    print(measuring.in_words(setting))
    shards, backbone = open_shards(options.data), load(options.backbone)
    there = {shard.split for shard in shards.shards}
    measured = shards.select([split for split in ("train", "val", "test") if split in there])
    fitted = shards.select([split for split in ("train", "val") if split in there])
    rows: list[dict[str, Any]] = []
    plain = features_of(backbone, measured, device)
    for seed in options.seeds:
        photographs = PhotographViewsConfig(rounds=1)
        quick = dataclasses.replace(backbone, model=Quick(backbone.model, device))
        seen = view_embeddings(quick, fitted, seed=seed, device=device, config=photographs)
        for way in options.ways:
            config = HashFitConfig(
                source=options.backbone,
                out=options.out,
                bits=options.bits,
                seed=seed,
                crovca=CrovcaConfig(epochs=options.epochs, batch=options.batch, least_steps=options.steps),
                photographs=photographs,
                lora=LoraConfig(rank=options.rank, learning_rate=options.learning_rate),
                **WAYS[way],
            )
            own = dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))
            fitting = Fitting(config, own, fitted, None, torch.device(device), seen)
            hasher, _ = fitting.heads()
            before = scores_of(hasher, plain)
            started = time.perf_counter()
            image, _ = fitting.train(hasher)
            seconds = time.perf_counter() - started
            adapted = dataclasses.replace(backbone, model=image.merge())
            after = scores_of(hasher, features_of(adapted, measured, device))
            for when, scores in (("before", before), ("after", after)):
                rows.append({"way": way, "seed": seed, "when": when, "seconds": round(seconds, 1)} | scores)
            (options.out / "hash_lora.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
            print(f"{way}, seed {seed}: {in_words(before)} -> {in_words(after)}; {seconds:.0f} s", flush=True)
    print(table(rows))


def features_of(backbone: Backbone, shards: ShardSet, device: str) -> Embeddings:
    """Embeddings of all labeled photographs."""
    return embed(dataclasses.replace(backbone, model=Quick(backbone.model, device)), shards, device=device)


def scores_of(hasher: Any, embeddings: Embeddings) -> dict[str, float]:
    """All measures, in %."""
    task = make_task(embeddings.label, embeddings.split, embeddings.splits)
    convention, features = Convention(k=min(1000, len(task.database))), embeddings.features
    few = nearest_centroid(
        features[task.database],
        task.database_label,
        shots=SHOTS,
        draws=DRAWS,
        seed=0,
        queries=features[task.queries],
        query_labels=task.query_label,
    )
    floats = {score.name: score.map for score in score_features(features, task, convention)}
    hamming = score_hasher("", hasher, features, task, convention)[0]
    found = {"float mAP": max(floats.values()), "code mAP": hamming.map, f"{SHOTS}-shot": float(np.mean(few))}
    if isinstance(hasher, PairedCoder):
        words, shares = score_texts("", hasher, features, embeddings.classes, task, convention)
        found |= {"words' code mAP": words[0].map, "words' float mAP": words[2].map}
        found |= {"zero-shot, codes": shares.by_codes, "zero-shot, floats": shares.by_logits}
    return {name: round(100 * value, 3) for name, value in found.items()}


def in_words(scores: dict[str, float]) -> str:
    """Scores in a line."""
    return ", ".join(f"{name} {value:.1f}" for name, value in scores.items())


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds before and after, and the mean difference with its deviation."""
    lines = ["| | measure | before | after | difference |", "| --- | --- | --- | --- | --- |"]
    for way in dict.fromkeys(row["way"] for row in rows):
        pairs = [[row for row in rows if row["way"] == way and row["when"] == when] for when in ("before", "after")]
        for name in [name for name in pairs[0][0] if name not in ("way", "seed", "when", "seconds")]:
            before, after = ([row[name] for row in part] for part in pairs)
            gains = [late - early for early, late in zip(before, after, strict=True)]
            spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
            means = f"{statistics.mean(before):.1f} | {statistics.mean(after):.1f}"
            lines.append(f"| {way} | {name} | {means} | {statistics.mean(gains):+.1f} ± {spread:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
