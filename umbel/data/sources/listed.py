"""`umbel shards make csv` and `meta-album`: photographs that a table lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.data.folder import SPLIT_FOLDERS
from umbel.data.label_text import identity, is_number, natural
from umbel.data.make_config import MakeUnsplitConfig, check_split, make_shards
from umbel.data.photograph_set import Photograph, PhotographSet, fingerprint_of, key_of, state_of
from umbel.data.table import read_object, read_table
from umbel.data.to_sample import OWN_FIELDS
from umbel.run import UserError, say

MAX_LABEL = 1_000_000
OWN_COLUMNS = ("path", "label", "class", "split")


@dataclass(frozen=True, kw_only=True)
class MakeCsvConfig(MakeUnsplitConfig):
    """Make shards of the photographs that a CSV file lists.

    Its columns: path (from the file's own folder), and where there are any label (numbers from 0, or names; empty and
    -1 are none), class (a name) and split. All others go into the samples' JSON; they may not be called source,
    original_size or class_name, which stand there already.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """The CSV file (UTF-8 with a head; .tsv: separated by tabs)."""


@dataclass(frozen=True, kw_only=True)
class MakeMetaAlbumConfig(MakeUnsplitConfig):
    """Make shards of a data set of Meta-Album: images/, labels.csv and info.json."""

    data: Annotated[Path, tyro.conf.Positional]
    """The folder of the data set."""


def make_csv(config: MakeCsvConfig) -> None:
    """Make shards of the photographs that a CSV file lists.

    Raises:
        UserError: the file cannot be read, its labels make no classes, or see `make_shards`.
    """
    rows = list(read_table(config.data, needed=("path",)))
    make_shards(config, "csv", read_listed(rows, config.data.parent, config.split, where=config.data))


def make_meta_album(config: MakeMetaAlbumConfig) -> None:
    """Make shards of a data set of Meta-Album.

    Raises:
        UserError: labels.csv or info.json is missing or does not fit, or see `make_shards`.
    """
    root = config.data
    table = root / "labels.csv"
    if not table.is_file():
        raise UserError(f"{root} is not a data set of Meta-Album: it has no labels.csv.")
    info = read_object(root / "info.json") if (root / "info.json").is_file() else {}
    columns = {
        "path": info.get("image_column_name") or "FILE_NAME",
        "class": info.get("category_column_name") or "CATEGORY",
    }
    super_category = info.get("super_category_column_name") or "SUPER_CATEGORY"
    rows = []
    for told in read_table(table, needed=tuple(columns.values()), tabs=bool(info.get("csv_with_tab"))):
        row = {name: told[column] for name, column in columns.items()}
        if told.get(super_category):
            row["super_category"] = told[super_category]
        if info.get("dataset_name"):
            row["dataset"] = str(info["dataset_name"])
        rows.append(row)
    images = root / "images" if info.get("images_in_sub_folder", True) else root
    make_shards(config, "meta-album", read_listed(rows, images, config.split, where=table))


def read_listed(rows: Sequence[Mapping[str, str]], folder: Path, split: str, *, where: Path) -> PhotographSet:
    """Photographs from rows with path, and where there are any label, class and split; other columns are metadata.

    Raises:
        UserError: no rows, a path twice, no name of a split, labels that make no classes, or a column called as what
            a sample's JSON holds anyway.
    """
    if not rows:
        raise UserError(f"{where} lists no photographs.")
    for name in OWN_FIELDS:
        if name in rows[0] and name not in OWN_COLUMNS:
            raise UserError(f"{where} has a column '{name}', which Umbel writes into each sample itself: rename it.")
    classes, labels = _classes(rows, where)
    splits: dict[str, list[Photograph]] = {}
    seen: set[str] = set()
    for row, label in zip(rows, labels, strict=True):
        path = row["path"]
        if path in seen or not path:
            raise UserError(f"{where} lists '{path}' twice." if path else f"{where} has a row without a path.")
        if "\0" in path:
            raise UserError(f"{where} lists {path!r}: no path has a NUL in it.")
        seen.add(path)
        named = SPLIT_FOLDERS.get(row.get("split", "").lower(), row.get("split")) or split
        check_split(named)
        photograph = Photograph(
            path=str(folder / path),
            key=key_of(Path(path)),
            label=label,
            class_name=None if label is None else classes[label],
            metadata={name: value for name, value in row.items() if name not in OWN_COLUMNS and value},
        )
        splits.setdefault(named, []).append(photograph)
    found = [folder / row["path"] for row in rows]
    content = hashlib.sha256(
        repr([sorted(row.items()) for row in rows]).encode("utf-8", "backslashreplace")
    ).hexdigest()
    return PhotographSet(
        splits={name: tuple(photographs) for name, photographs in splits.items()},
        classes=classes,
        fingerprint=fingerprint_of(content, state_of(folder, found)),
    )


def _classes(rows: Sequence[Mapping[str, str]], where: Path) -> tuple[tuple[str, ...], list[int | None]]:
    """The classes' names, and every row's label."""
    numbers = [identity(row.get("label")) or "" for row in rows]
    names = [row.get("class", "") for row in rows]
    if not all(map(is_number, filter(None, numbers))):
        if any(names):
            raise UserError(f"{where}: where there is a column class, the column label must hold numbers from 0.")
        numbers, names = [], numbers
    if not any(numbers):
        classes = sorted(set(filter(None, names)), key=natural)
        if classes:
            say(f"{where}: labels are read as names: {len(classes):,} classes, numbers in their order, then text.")
        place = {name: label for label, name in enumerate(classes)}
        return tuple(classes), [place.get(name) for name in names]
    last = max(filter(None, numbers), key=natural)
    if len(last.lstrip("0")) >= len(str(MAX_LABEL)):
        raise UserError(f"{where}: label {last[:20]} is too large: labels number the classes from 0.")
    labels = [int(number) if number else None for number in numbers]
    top = int(last)
    say(f"{where}: labels are read as numbers of classes, from 0 to {top:,}.")
    known: dict[int, str] = {}
    for label, name in zip(labels, names, strict=True):
        if label is not None and name and known.setdefault(label, name) != name:
            raise UserError(f"{where}: label {label} is called '{known[label]}' and '{name}'.")
    return tuple(known.get(label, str(label)) for label in range(top + 1)), labels
