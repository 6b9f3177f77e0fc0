"""Reading a folder of photographs: which file is of which split and class."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from umbel.data.photograph import BadPhotographError, encode_photograph, find_photographs, read_photograph
from umbel.data.write import Sample
from umbel.run import UserError

SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A file with its place in the set."""

    path: str
    key: str
    label: int | None
    class_name: str | None

    def __str__(self) -> str:
        return printable(self.path)


@dataclass(frozen=True, kw_only=True)
class PhotographFolder:
    """What a folder of photographs holds."""

    splits: dict[str, tuple[Photograph, ...]]
    classes: tuple[str, ...]
    fingerprint: str
    """A hash of the files' relative names, sizes and times."""


def read_folder(folder: Path, split: str) -> PhotographFolder:
    """List a folder: `split/class/file` where the first level is named after splits, `class/file`, or flat.

    Labels number the sorted class names from 0; a class folder's subfolders belong to it.

    Raises:
        UserError: no such folder, or no photographs in it.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: give a folder of photographs or of shards.")
    files = [path.relative_to(folder) for path in find_photographs(folder)]
    if not files:
        raise UserError(f"{folder} holds no photographs (.jpg, .png, .webp, .tif and the like).")
    by_split = all(len(file.parts) > 1 and file.parts[0].lower() in SPLIT_FOLDERS for file in files)
    skip = 1 if by_split else 0
    labeled = [file for file in files if len(file.parts) > skip + 1]
    classes = tuple(sorted({printable(file.parts[skip]) for file in labeled}))
    if classes and len(labeled) < len(files) and not by_split:
        stray = next(file for file in files if len(file.parts) == 1)
        raise UserError(
            f"{folder / stray} lies beside class folders: move it into a class, or all photographs into one."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    splits: dict[str, list[Photograph]] = {}
    for file in files:
        name = printable(file.parts[skip]) if len(file.parts) > skip + 1 else None
        chosen = SPLIT_FOLDERS[file.parts[0].lower()] if by_split else split
        label = None if name is None else numbers[name]
        row = Photograph(path=str(folder / file), key=key_of(file), label=label, class_name=name)
        splits.setdefault(chosen, []).append(row)
    state = [(file.as_posix(), (s := (folder / file).stat()).st_size, s.st_mtime_ns) for file in files]
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()[:24]
    return PhotographFolder(
        splits={name: tuple(rows) for name, rows in splits.items()}, classes=classes, fingerprint=fingerprint
    )


def set_aside(folder: PhotographFolder, share: float) -> PhotographFolder:
    """Make a share of each class's photographs the split test: those whose paths hash lowest, at least one, never all.

    A folder that names a test split keeps its own.

    Raises:
        UserError: the photographs have no classes.
    """
    if share == 0 or "test" in folder.splits:
        return folder
    rows = [row for split in folder.splits.values() for row in split]
    if not folder.classes:
        raise UserError(
            "photographs without class folders have no test split: put each class into a folder of its own."
        )
    chosen: set[str] = set()
    for label in range(len(folder.classes)):
        keys = sorted((row.key for row in rows if row.label == label), key=lambda key: key[-10:])
        chosen |= set(keys[: min(max(1, round(share * len(keys))), len(keys) - 1)])
    splits = {name: tuple(row for row in part if row.key not in chosen) for name, part in folder.splits.items()}
    splits["test"] = tuple(row for row in rows if row.key in chosen)
    return dataclasses.replace(folder, splits=splits)


def key_of(file: Path) -> str:
    """A sample's key: the file's name made safe (no dots or spaces), and a hash of its path that makes it unique."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in file.stem)[:60]
    return f"{stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:10]}"


@dataclass(frozen=True, kw_only=True)
class PhotographToSample:
    """Makes a shard's sample from a photograph file (a class, so that processes can be handed it)."""

    shorter_side: int
    quality: int

    def __call__(self, photograph: Photograph) -> Sample | str:
        try:
            image = read_photograph(Path(photograph.path))
            jpg = encode_photograph(image, shorter_side=self.shorter_side, quality=self.quality)
        except BadPhotographError as error:
            return str(error)
        metadata: dict[str, object] = {"source": printable(Path(photograph.path).name)}
        metadata["original_size"] = list(image.size)
        if photograph.class_name is not None:
            metadata["class_name"] = photograph.class_name
        return Sample(key=photograph.key, jpg=jpg, label=photograph.label, metadata=metadata)


def printable(name: str) -> str:
    """A file's name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def shuffled(rows: Sequence[Photograph], seed: int) -> list[Photograph]:
    """An order that mixes classes over the shards; a function of the keys and the seed."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.key}".encode()).digest())
