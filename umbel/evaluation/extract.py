"""Photographs of shards, in file order, through any function: the pass that backbones and baselines share."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umbel import __version__
from umbel.backbones.folder import CROP_SHARE
from umbel.data.folder import read_folder
from umbel.data.index import ShardSet, find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.photograph_batches import Prepare as Prepare
from umbel.evaluation.photograph_batches import cut, photograph_batches
from umbel.run import Bar, UserError


def open_data(data: str, folder: Path, image_size: int, *, workers: int = -1) -> ShardSet:
    """DATA's shards; a folder of photographs is made into shards in `folder` first, large enough for the backbone.

    Args:
        workers: processes, as the commands that embed count them: -1 for each processor one, 0 this one.

    Raises:
        UserError: neither photographs nor shards.
    """
    if find_shards(data):
        return open_shards(data)
    side = max(384, round(image_size / CROP_SHARE))
    # However many are damaged, they are named, and the others are embedded.
    processes = {-1: 0, 0: 1}.get(workers, workers)
    make_folder(MakeFolderConfig(data=Path(data), out=folder, shorter_side=side, max_bad=1.0, workers=processes))
    return open_shards(str(folder))


def fingerprint(data: str) -> str:
    """A hash of DATA that costs no decoding."""
    return open_shards(data).fingerprint() if find_shards(data) else read_folder(Path(data), "train").fingerprint


def extract(
    shards: ShardSet,
    prepare: Prepare,
    forward: Callable[[Tensor], Tensor],
    *,
    provenance: dict[str, Any],
    batch: int,
    workers: int,
    splits: Sequence[str] | None,
    title: str | None = "embedding photographs",
    pin: bool = False,
) -> Embeddings:
    """Make features: `prepare` in the workers, `forward` (B, ...) -> (B, C) in this process.

    Damaged photographs are left out; provenance["left_out"] names them with the reason.

    Args:
        title: stands at the progress bar; None: there is no bar.

    Raises:
        UserError: no photographs, a split or shard that is not there, or features that are not finite.
    """
    chosen = shards if splits is None else shards.select(splits)
    rows: list[int] = []
    features = np.empty((0, 0), dtype=np.float32)
    bad: dict[str, str] = {}
    started = time.perf_counter()
    progress = contextlib.nullcontext() if title is None else Bar(title, len(chosen))
    batches = photograph_batches(chosen, prepare, cut(0, len(chosen), batch), workers=workers, pin=pin)
    with progress as bar, torch.inference_mode():
        for good, images, reasons in batches:
            if good:
                made = forward(images).float().cpu().numpy()
                if not rows:
                    # All of them once: parts that are joined at the end would stand in memory twice.
                    features = np.empty((len(chosen), made.shape[1]), dtype=np.float32)
                features[len(rows) : len(rows) + len(good)] = made
                rows += good
            bad |= {chosen.key(sample): reason for sample, reason in reasons.items()}
            if bar is not None:
                bar.advance(len(good) + len(reasons))
    seconds = time.perf_counter() - started
    check_some(len(rows), len(chosen), bad)
    features = features[: len(rows)]
    check_finite(features)
    told = origin(chosen, bad) | pace(len(rows), seconds)
    return Embeddings(features=features, **described(chosen, np.array(rows)), provenance=provenance | told)


def check_some(made: int, asked: int, bad: Mapping[str, str]) -> None:
    """Raise a UserError where no photograph could be embedded, with the first reason."""
    if not made:
        first = f" (the first: {next(iter(bad.values()))})" if bad else ""
        raise UserError(f"none of the {asked} photographs can be embedded{first}: give others as --data.")


def check_finite(features: np.ndarray) -> None:
    """Raise a UserError where features are not finite."""
    if not np.isfinite(features).all():
        raise UserError("the features are not finite: the backbone's weights are damaged, or diverged in training.")


def described(shards: ShardSet, rows: np.ndarray) -> dict[str, Any]:
    """What embeddings of some samples, (N,) int64, tell besides their features: the other fields of `Embeddings`."""
    names = list(dict.fromkeys(shard.split for shard in shards.shards))
    split_of_shard = np.array([names.index(shard.split) for shard in shards.shards], dtype=np.int64)
    members = shards.members[rows]
    return {
        "label": members["label"].astype(np.int64),
        "split": split_of_shard[members["shard"]],
        "keys": tuple(shards.key(row) for row in rows),
        "splits": tuple(names),
        "classes": shards.classes,
    }


def origin(shards: ShardSet, bad: Mapping[str, str]) -> dict[str, Any]:
    """Where photographs come from, which of them are left out, and what embedded them.

    The data's sha256 is that of its shards' hashes, one behind the other; None where an index does not tell them.
    """
    hashes = [shard.sha256 for shard in shards.shards]
    known = None if None in hashes else hashlib.sha256("".join(map(str, hashes)).encode()).hexdigest()
    data = {"folder": shards.folder, "fingerprint": shards.fingerprint(), "shards_sha256": known}
    return {"data": data, "left_out": dict(bad), "versions": versions()}


def pace(count: int, seconds: float) -> dict[str, float]:
    """How long it took."""
    return {"seconds": round(seconds, 3), "images_per_second": round(count / max(seconds, 1e-9), 1)}


def versions() -> dict[str, str]:
    """Of Umbel and of what decodes, prepares and embeds."""
    return {"umbel": __version__} | {name: version(name) for name in ("torch", "torchvision", "timm", "pillow")}
