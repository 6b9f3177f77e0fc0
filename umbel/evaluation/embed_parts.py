"""Features in parts, by one process or several: each stores its own parts, and rank 0 joins them.

A batch never reaches over the end of a part, so features depend neither on the number of processes nor on restarts:
to the last bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from umbel.data.index import ShardSet
from umbel.evaluation.embed_folder import BESIDE, FILES
from umbel.evaluation.embeddings import record
from umbel.evaluation.extract import check_finite, check_some, described, origin, pace
from umbel.evaluation.parts import Parts
from umbel.evaluation.photograph_batches import Prepare, cut, photograph_batches
from umbel.evaluation.tensor_file import write_tensors
from umbel.machine import choose_workers
from umbel.run import Bar, TrainingError, UserError, duration, say, sync_file, sync_folder

PATIENCE = 600.0
"""Seconds that rank 0 waits for another rank's next part, besides five times the longest of its own."""


def make_together(
    parts: Parts,
    shards: ShardSet,
    prepare: Prepare,
    forward: Callable[[Tensor], Tensor],
    *,
    state: PartialState,
    batch: int,
    workers: int,
    device: str,
) -> bool:
    """Make the parts that are missing, each rank its own; `forward`: (B, ...) -> (B, C), floats or uint8.

    Args:
        workers: processes that decode; -1: chosen by the processors at hand.

    Returns:
        True on rank 0 once all are there; False on the others, which are done.

    Raises:
        UmbelError: a shard cannot be read, features are not finite, or another rank failed.
    """
    mine = [part for part in parts.missing() if part % state.num_processes == state.process_index]
    there = len(parts.all) - len(parts.missing())
    if state.num_processes > 1:
        say(f"{state.num_processes} processes share {len(parts.all)} parts of {parts.size} photographs.")
    if there:
        say(f"going on: {there} of {len(parts.all)} parts are there.")
    # Rank 0 removes the parts at the end: by then everyone must have seen which are there.
    state.wait_for_everyone()
    reading: dict[str, Any] = {"batch": batch, "processes": state.num_processes, "pin": device == "cuda"}
    here = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    reading["workers"] = int(choose_workers(workers, here).value)
    try:
        longest = make_parts(parts, mine, shards, prepare, forward, **reading)
    except BaseException:
        if not state.is_main_process:
            parts.tell_failure(state.process_index)
        raise
    if state.is_main_process:
        wait_for_all(parts, longest)
    return bool(state.is_main_process)


def make_parts(
    parts: Parts,
    mine: Sequence[int],
    shards: ShardSet,
    prepare: Prepare,
    forward: Callable[[Tensor], Tensor],
    *,
    batch: int,
    workers: int,
    pin: bool,
    processes: int,
) -> float:
    """Make parts and store each; see `make_together`.

    Returns:
        Seconds of the longest.

    Raises:
        UserError: a shard cannot be read, or the features are not finite.
    """
    if not mine:
        return 0.0
    cuts = [cut(*parts.span(part), batch) for part in mine]
    batches = photograph_batches(shards, prepare, list(itertools.chain(*cuts)), workers=workers, pin=pin)
    done, longest = sum(len(span) for span in itertools.chain(*cuts)), 0.0
    with Bar("embedding photographs", done) as bar, torch.inference_mode():
        for part, pieces in zip(mine, cuts, strict=True):
            started = time.perf_counter()
            rows: list[int] = []
            features: list[np.ndarray] = []
            bad: dict[str, str] = {}
            for good, images, reasons in itertools.islice(batches, len(pieces)):
                if good:
                    rows += good
                    made = forward(images)
                    features.append((made.float() if made.is_floating_point() else made).cpu().numpy())
                bad |= {shards.key(sample): reason for sample, reason in reasons.items()}
                bar.advance(len(good) + len(reasons))
            stacked = np.concatenate(features) if features else np.empty((0, 0), dtype=np.float32)
            check_finite(stacked)
            seconds = time.perf_counter() - started
            longest = max(longest, seconds)
            # Processes work side by side: together they take as long as each part's share.
            parts.store(part, np.array(rows, dtype=np.int64), stacked, left_out=bad, seconds=seconds / processes)
    return longest


def wait_for_all(parts: Parts, longest: float) -> None:
    """On rank 0: wait until the other ranks have stored their parts.

    No collective waits here: its time would be limited by the slowest rank's, whatever that is.

    Raises:
        UmbelError: one of them failed, or nothing came for a long time.
    """
    patience = PATIENCE + 5 * longest
    missing, since = len(parts.missing()), time.monotonic()
    while missing:
        if (failed := parts.failed()) is not None:
            raise UserError(f"rank {failed} failed, and says why; the same command goes on from the parts there.")
        if time.monotonic() - since > patience:
            raise TrainingError(
                f"no part came from the other ranks for {duration(patience)}: {missing} are missing; the same command "
                "goes on from the parts there."
            )
        time.sleep(0.1)
        now = len(parts.missing())
        since = since if now == missing else time.monotonic()
        missing = now


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What all parts together hold besides their features."""

    rows: np.ndarray  # (N,) int64: numbers of their samples
    width: int
    left_out: dict[str, str]
    seconds: float


def gather(parts: Parts, count: int) -> Gathered:
    """Read what parts of `count` photographs tell.

    Raises:
        UserError: no photograph has features (the parts are removed), or a part cannot be read.
    """
    found = [parts.read(part) for part in parts.all]
    rows = np.concatenate([part.rows for part in found])
    left_out = {key: reason for part in found for key, reason in part.left_out.items()}
    try:
        check_some(len(rows), count, left_out)
    except UserError:
        parts.remove()
        raise
    width = max(part.width for part in found)
    return Gathered(rows=rows, width=width, left_out=left_out, seconds=sum(part.seconds for part in found))


def join_parts(parts: Parts, shards: ShardSet, out: Path, provenance: dict[str, Any]) -> tuple[int, int, float]:
    """Join all parts into the files of `out`; the record comes last. One part's features are in memory at a time.

    Returns:
        Number of photographs, width of a feature, and photographs a second.

    Raises:
        UserError: no photograph could be embedded, or a part cannot be read.
    """
    try:
        found = gather(parts, len(shards))
    except UserError:
        with contextlib.suppress(OSError):
            out.rmdir()
        raise
    rows, bad, width = found.rows, found.left_out, found.width
    told = described(shards, rows)
    speed = pace(len(rows), found.seconds)
    beside = out / BESIDE
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(beside)
    beside.mkdir()
    tensors = {
        "label": ("<i8", (len(rows),), [told["label"]]),
        "split": ("<i8", (len(rows),), [told["split"]]),
        "features": ("<f4", (len(rows), width), parts.features()),
    }
    write_tensors(beside / FILES[0], tensors)
    (beside / FILES[1]).write_text("".join(f"{key}\n" for key in told["keys"]))
    provenance = provenance | origin(shards, bad) | speed
    (beside / FILES[2]).write_text(record(told["splits"], told["classes"], (len(rows), width), provenance))
    for name in FILES:
        sync_file(beside / name)
        (beside / name).replace(out / name)
    beside.rmdir()
    sync_folder(out)
    parts.remove()
    say_left_out(bad)
    return len(rows), width, speed["images_per_second"]


def say_left_out(bad: dict[str, str], named: int = 10) -> None:
    """Name damaged photographs; many are counted."""
    for key, reason in list(bad.items())[:named]:
        say(f"left out: {key}: {reason}")
    if len(bad) > named:
        say(f"left out: {len(bad) - named} more.")
