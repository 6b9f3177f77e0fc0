"""Few-shot accuracy of a backbone on labeled shards, in Python: load, embed, nearest class mean.

python examples/few_shot.py RUN SHARDS          (RUN: anything that umbel.backbones.load takes)
"""

from __future__ import annotations

import sys

from umbel.backbones import load
from umbel.data.index import open_shards
from umbel.evaluation.embed import embed
from umbel.evaluation.fewshot import interval, nearest_centroid


def main(backbone: str, data: str, shots: int = 5) -> None:
    """Print the accuracy with its 95 % interval: train and val give the support, test the queries."""
    embeddings = embed(load(backbone), open_shards(data), device="cpu")
    support, queries = embeddings.of("train", "val"), embeddings.of("test")
    accuracies = nearest_centroid(
        support.features,
        support.label,
        shots=shots,
        draws=50,
        seed=0,
        queries=queries.features,
        query_labels=queries.label,
    )
    mean, half = interval(accuracies)
    print(f"{shots} shots: {mean:.1%} ± {half:.1%} over {len(accuracies)} draws, {len(queries)} queries")


if __name__ == "__main__":
    main(*sys.argv[1:3])
