"""Reading the headers of a shard: where every member of its samples lies, so that any sample is one seek."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umbel.run import UserError

SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
SHARD_NAME = re.compile(rf"(?P<split>{SPLIT_NAME.pattern})-(?P<number>\d{{6,}})\.tar")
LABELS = 10_000_000
"""Labels are smaller: they are counted in tables as long as the largest, and are more than there are species."""
MEMBER = np.dtype(
    [
        ("shard", "<u4"),
        ("label", "<i4"),  # -1: none
        ("jpg_offset", "<i8"),
        ("jpg_bytes", "<i8"),
        ("json_offset", "<i8"),
        ("json_bytes", "<i8"),  # 0: none
        ("txt_offset", "<i8"),
        ("txt_bytes", "<i8"),  # 0: none
    ]
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file of samples."""

    path: Path
    """Where it lies; of a remote one, where the cache keeps it while it is here."""
    split: str
    count: int
    bytes: int
    sha256: str | None
    """Hash of the file; None where the index was computed here (`umbel shards check` hashes)."""
    url: str | None = None
    """Where a remote shard comes from."""

    @property
    def place(self) -> str:
        """The shard as messages name it."""
        return self.url or str(self.path)


def split_of(path: Path) -> str:
    """The split that a shard's name tells (`unlabelled` is read as `unlabeled`).

    Raises:
        UserError: the name is not `<split>-NNNNNN.tar`.
    """
    match = SHARD_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"shard {path} must be named <split>-NNNNNN.tar, for example train-000000.tar.")
    split = match["split"]
    return "unlabeled" if split == "unlabelled" else split


@dataclass(frozen=True, kw_only=True)
class ScannedShard:
    """A shard with the members found in it."""

    shard: Shard
    members: np.ndarray  # (n,) of MEMBER
    keys: list[bytes]


def scan_shard(path: Path, sha256: str | None = None) -> ScannedShard:
    """Read the headers of a tar file.

    Raises:
        UserError: cut off in the middle, not a tar file, or a sample without a photograph.
    """
    size = path.stat().st_size
    samples: dict[bytes, np.ndarray] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # A damaged size may be negative, which would lead back to the members before.
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError("unexpected end of data")
                if not member.isfile():
                    continue
                _add_member(samples, member, tar, path)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        # ValueError: a header that tells no numbers, or a name that is not UTF-8.
        raise UserError(
            f"shard {path} is cut off or not a tar file after {len(samples)} samples ({error}): make or fetch it again."
        ) from error
    for key, row in samples.items():
        if row["jpg_bytes"] == 0:
            raise UserError(f"shard {path}: sample '{key.decode()}' has no photograph ({key.decode()}.jpg).")
    members = np.concatenate(list(samples.values())) if samples else np.empty(0, MEMBER)
    shard = Shard(path=path, split=split_of(path), count=len(members), bytes=size, sha256=sha256)
    return ScannedShard(shard=shard, members=members, keys=list(samples))


def _add_member(samples: dict[bytes, np.ndarray], member: tarfile.TarInfo, tar: tarfile.TarFile, path: Path) -> None:
    """Enter one member into its sample's row; members of other kinds are passed over."""
    folder, _, name = member.name.rpartition("/")
    stem, _, kind = name.partition(".")
    key = (f"{folder}/{stem}" if folder else stem).encode()
    kind = {"jpeg": "jpg"}.get(kind.lower(), kind.lower())
    if kind not in ("jpg", "json", "txt", "cls"):
        return
    row = samples.get(key)
    if row is None:
        row = samples[key] = np.zeros(1, MEMBER)
        row["label"] = -1
    if kind == "cls":
        file = tar.extractfile(member)
        text = b"" if file is None else file.read(32)
        label = int(text) if text.strip().isdigit() else -1
        if not 0 <= label < LABELS:
            raise UserError(f"shard {path}: {member.name} holds {text!r}, not a class number from 0 to {LABELS - 1}.")
        row["label"] = label
    elif row[f"{kind}_bytes"][0]:
        raise UserError(f"shard {path}: key '{key.decode()}' stands twice ({member.name}): keys must be unique.")
    else:
        row[f"{kind}_offset"], row[f"{kind}_bytes"] = member.offset_data, member.size
