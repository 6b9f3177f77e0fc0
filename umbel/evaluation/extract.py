"""Photographs of shards, in file order, through any function: the pass that backbones and baselines share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from umbel import __version__
from umbel.backbones.folder import CROP_SHARE
from umbel.data.folder import read_folder
from umbel.data.index import ShardSet, find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.photograph import BadPhotographError, read_photograph
from umbel.data.reader import ShardReader
from umbel.data.unreadable import UnreadableShardError
from umbel.evaluation.embeddings import Embeddings
from umbel.run import Bar, UserError

Prepare = Callable[[Image], Tensor]
"""A photograph -> a tensor, of the same shape for all photographs."""


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
    loader = DataLoader(
        _Photographs(chosen, prepare),
        batch_size=batch,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
    rows: list[int] = []
    features: list[np.ndarray] = []
    bad: dict[str, str] = {}
    started = time.perf_counter()
    progress = contextlib.nullcontext() if title is None else Bar(title, len(chosen))
    with progress as bar, torch.inference_mode():
        for good, images, reasons, lost in loader:
            if lost is not None:
                raise UserError(lost)
            if good:
                rows += good
                features.append(forward(images).float().cpu().numpy())
            bad |= {chosen.key(sample): reason for sample, reason in reasons.items()}
            if bar is not None:
                bar.advance(len(good) + len(reasons))
    seconds = time.perf_counter() - started
    if not rows:
        first = f" (the first: {next(iter(bad.values()))})" if bad else ""
        raise UserError(f"none of the {len(chosen)} photographs can be embedded{first}: give others as --data.")
    stacked = np.concatenate(features)
    if not np.isfinite(stacked).all():
        raise UserError("the features are not finite: the backbone's weights are damaged, or diverged in training.")
    names = list(dict.fromkeys(shard.split for shard in chosen.shards))
    split_of_shard = np.array([names.index(shard.split) for shard in chosen.shards], dtype=np.int64)
    members = chosen.members[rows]
    return Embeddings(
        features=stacked,
        label=members["label"].astype(np.int64),
        split=split_of_shard[members["shard"]],
        keys=tuple(chosen.key(row) for row in rows),
        splits=tuple(names),
        classes=chosen.classes,
        provenance=provenance
        | {"data": {"folder": chosen.folder, "fingerprint": chosen.fingerprint()}}
        | {"left_out": bad, "seconds": round(seconds, 3), "images_per_second": round(len(rows) / seconds, 1)}
        | {"versions": {"umbel": __version__} | {name: version(name) for name in ("torch", "timm", "pillow")}},
    )


class _Photographs(Dataset[tuple[int, Tensor | str | UnreadableShardError]]):
    """Sample i, prepared, or why it cannot be: a reason in words, or the error of its shard."""

    def __init__(self, shards: ShardSet, prepare: Prepare) -> None:
        self.reader, self.prepare = ShardReader(shards), prepare

    def __len__(self) -> int:
        return len(self.reader.shards)

    def __getitem__(self, sample: int) -> tuple[int, Tensor | str | UnreadableShardError]:
        try:
            image = read_photograph(self.reader.read(sample, "jpg"))
        except BadPhotographError as error:
            return sample, str(error)
        except UnreadableShardError as error:
            return sample, error
        return sample, self.prepare(image)


def _collate(
    items: list[tuple[int, Tensor | str | UnreadableShardError]],
) -> tuple[list[int], Tensor, dict[int, str], str | None]:
    """Numbers and tensors (B, ...) of the good samples, the reasons of the bad ones, and a shard's error in words.

    Raised in a worker, the error would come out as a traceback.
    """
    good = [sample for sample, item in items if isinstance(item, Tensor)]
    images = [item for _, item in items if isinstance(item, Tensor)]
    bad = {sample: item for sample, item in items if isinstance(item, str)}
    lost = next((str(item) for _, item in items if isinstance(item, UnreadableShardError)), None)
    return good, torch.stack(images) if images else torch.empty(0), bad, lost
