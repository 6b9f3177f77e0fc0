"""`umbel shards check`: every byte, header and photograph of a set of shards, and what repeats what."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from umbel.data.duplicate_report import parts, refuse_other, report_duplicates
from umbel.data.index import ShardSet, open_shards
from umbel.data.perceptual_hash import FINE_BITS
from umbel.data.reader import ShardReader
from umbel.data.scan import Shard, scan_shard
from umbel.data.survey import Survey, survey
from umbel.run import Bar, UserError, processors, say


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Read every sample of a set of shards: sums, headers, keys, labels, photographs; and tell which repeat others."""

    data: Annotated[str, tyro.conf.Positional]
    """A folder of shards, a shard, a brace pattern, or a URL of any of these."""
    against: str | None = None
    """Other shards, say those of an evaluation: tell which photographs and observations of DATA stand there too."""
    distance: int = 64
    """Bits of a perceptual hash of 256 in which near duplicates may differ; 0: alike in all."""
    out: Path | None = None
    """File for the table of duplicates (CSV)."""
    workers: int = 0
    """Processes; 0: one for each processor."""

    def __post_init__(self) -> None:
        if not 0 <= self.distance < FINE_BITS // 2:
            raise ValueError(f"distance must lie between 0 and {FINE_BITS // 2 - 1} bits, not {self.distance}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, but is {self.workers}")


def check(config: CheckConfig) -> None:
    """Check a set of shards and print what it holds. Duplicates are told, and are no faults.

    Raises:
        UserError: the first fault found, and how many there are; no such shards; `out` is a file of another kind.
    """
    if config.out is not None:
        refuse_other(config.out)
    workers = config.workers or processors()
    shards = open_shards(config.data)
    # Opened before anything is read: a name that is wrong is told at once.
    against = [] if config.against is None else [(config.against, open_shards(config.against))]
    faults = _duplicate_keys(shards) + _labels(shards) + _files(shards)
    found = survey(shards, workers=workers, title="checking")
    for sample, reason in found.faults.items():
        faults.append(f"{shards.shards[shards.members['shard'][sample]].path.name}: {shards.key(sample)}: {reason}")
    _print_summary(shards, found)
    for fault_text in faults[:20]:
        say(f"fault: {fault_text}")
    others = [
        part
        for name, other in against
        for part in parts(name, other, survey(other, workers=workers, title="reading the others"))
    ]
    report_duplicates(parts(config.data, shards, found), others, distance=config.distance, out=config.out)
    if faults:
        many = f"{len(faults)} faults, the first" if len(faults) > 1 else "a fault"
        raise UserError(f"{config.data}: {many}: {faults[0].rstrip('.')}.")
    say("no faults.")


def _duplicate_keys(shards: ShardSet) -> list[str]:
    keys, counts = np.unique(shards.keys, return_counts=True)
    return [
        f"key {bytes(key).decode()} stands {count} times" for key, count in zip(keys, counts, strict=True) if count > 1
    ]


def _labels(shards: ShardSet) -> list[str]:
    top = int(shards.members["label"].max(initial=-1))
    if shards.classes and top >= len(shards.classes):
        return [f"label {top} has no name: classes.txt has {len(shards.classes)} lines"]
    return []


def _files(shards: ShardSet) -> list[str]:
    """Faults of the files themselves, shard by shard."""
    starts = np.concatenate([[0], np.cumsum([shard.count for shard in shards.shards])])
    faults = []
    reader = ShardReader(shards)
    with Bar("hashing shards", len(shards.shards)) as bar:
        for number, shard in enumerate(shards.shards):
            reader.keep({number})
            reader.open(number)  # a remote shard is here from now on
            faults += _file(shard, shards.members[starts[number] : starts[number + 1]])
            bar.advance()
    return faults


def _file(shard: Shard, members: np.ndarray) -> list[str]:
    """Compare a shard's bytes and headers with the index."""
    faults = []
    if shard.sha256 is not None:
        with shard.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                faults.append(f"{shard.path.name}: its sha256 differs from the index")
    try:
        found = scan_shard(shard.path).members
    except UserError as error:
        return [*faults, str(error)]
    names = [name for name in members.dtype.names or () if name != "shard"]
    if len(found) != len(members) or any(not np.array_equal(found[name], members[name]) for name in names):
        faults.append(f"{shard.path.name}: its members differ from the index")
    return faults


def _print_summary(shards: ShardSet, found: Survey) -> None:
    splits: Counter[str] = Counter()
    for shard in shards.shards:
        splits[shard.split] += shard.count
    labels = np.unique(shards.members["label"][shards.members["label"] >= 0])
    counts = ", ".join(f"{split} {count}" for split, count in sorted(splits.items()))
    say(f"{len(shards.shards)} shards, {len(shards)} samples ({counts}), {len(labels)} classes.")
    sizes, often = np.unique(found.rows["size"], axis=0, return_counts=True)
    rows = [(int(n), int(h), int(w)) for (h, w), n in zip(sizes, often, strict=True) if h > 0]
    common = ", ".join(f"{n} of {h} x {w}" for n, h, w in sorted(rows, key=lambda row: -row[0])[:3])
    say(f"height and width in pixels, most common first: {common}.")
