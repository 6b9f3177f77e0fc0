"""Reading a folder of photographs: which file is of which split and class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from umbel.data.index import find_shards
from umbel.data.photograph import find_photographs
from umbel.data.photograph_set import Photograph, PhotographSet, fingerprint_of, key_of, printable, state_of
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


def check_data(data: str) -> None:
    """Refuse DATA that is not there, without reading it; what a URL names is not asked for.

    Raises:
        UserError: no such folder or shard.
    """
    if not find_shards(data):
        check_folder(Path(data))


def check_shards(data: str) -> None:
    """Refuse DATA that holds no shards.

    Raises:
        UserError: always then.
    """
    if not find_shards(data):
        raise UserError(f"{data} holds no shards: make them with `umbel shards make folder`.")


def check_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        UserError: always then.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: give a folder of photographs or of shards.")


def read_folder(
    folder: Path,
    split: str,
    *,
    find: Callable[[Path], list[Path]] = find_photographs,
    what: str = "photographs (.jpg, .png, .webp, .tif and the like)",
) -> PhotographSet:
    """List a folder: `split/class/file` where the first level is named after splits, `class/file`, or flat.

    Labels number the sorted class names from 0; a class folder's subfolders belong to it.

    Args:
        find: the files below the folder, sorted; `what` they are, for the sentence.

    Raises:
        UserError: no such folder, none of these files in it, or folders of splits beside others.
    """
    check_folder(folder)
    files = [path.relative_to(folder) for path in find(folder)]
    if not files:
        raise UserError(f"{folder} holds no {what}.")
    tops = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    named = [top for top in tops if top.lower() in SPLIT_FOLDERS]
    others = [printable(top) for top in tops if top not in named]
    if named and others:
        raise UserError(
            f"{folder} holds {named[0]}, the name of a split, beside {others[0]}, which is none: "
            "rename or move one of them."
        )
    by_split = bool(named) and all(len(file.parts) > 1 for file in files)
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
    return PhotographSet(
        splits={name: tuple(rows) for name, rows in splits.items()},
        classes=classes,
        fingerprint=fingerprint_of(state_of(folder, [folder / file for file in files])),
    )


def set_aside(folder: PhotographSet, share: float) -> PhotographSet:
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
