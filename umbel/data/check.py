"""`umbel shards check`: every byte, header and photograph of a set of shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from umbel.data.decode import decode
from umbel.data.index import ShardSet, open_shards
from umbel.data.photograph import BadPhotographError
from umbel.data.reader import ShardReader
from umbel.data.scan import Shard, scan_shard
from umbel.run import Bar, UserError, say


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Read every sample of a set of shards: sums, headers, keys, labels, photographs."""

    data: Annotated[str, tyro.conf.Positional]
    """A folder of shards, a shard, or a brace pattern."""


def check(config: CheckConfig) -> None:
    """Check a set of shards and print what it holds.

    Raises:
        UserError: the first fault found, and how many there are.
    """
    shards = open_shards(config.data)
    faults = _duplicate_keys(shards) + _labels(shards)
    sides: Counter[str] = Counter()
    starts = np.concatenate([[0], np.cumsum([shard.count for shard in shards.shards])])
    reader = ShardReader(shards)
    with Bar("checking", len(shards)) as bar:
        for number, shard in enumerate(shards.shards):
            reader.keep({number})
            if shard.count:
                reader.read(int(starts[number]), "jpg")  # a remote shard is here from now on
            faults += _file(shard, shards.members[starts[number] : starts[number + 1]])
            for sample in range(starts[number], starts[number + 1]):
                found = _photograph(reader, sample)
                if isinstance(found, str):
                    faults.append(f"{shard.path.name}: {shards.key(sample)}: {found}")
                else:
                    sides[f"{found[0]} x {found[1]}"] += 1
            bar.advance(shard.count)
    _print_summary(shards, sides)
    for fault_text in faults[:20]:
        say(f"fault: {fault_text}")
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


def _photograph(reader: ShardReader, sample: int) -> tuple[int, int] | str:
    """The height and width of a photograph, or what is wrong with it."""
    try:
        image = decode(reader.read(sample, "jpg"), canvas=1 << 16)
    except BadPhotographError as error:
        return str(error)
    return image.shape[1], image.shape[2]


def _print_summary(shards: ShardSet, sides: Counter[str]) -> None:
    splits: Counter[str] = Counter()
    for shard in shards.shards:
        splits[shard.split] += shard.count
    labels = np.unique(shards.members["label"][shards.members["label"] >= 0])
    counts = ", ".join(f"{split} {count}" for split, count in sorted(splits.items()))
    say(f"{len(shards.shards)} shards, {len(shards)} samples ({counts}), {len(labels)} classes.")
    common = ", ".join(f"{count} of {size}" for size, count in sides.most_common(3))
    say(f"height and width in pixels, most common first: {common}.")
