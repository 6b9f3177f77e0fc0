"""`umbel shards make plantnet300k`: Pl@ntNet-300K, folders by species id with organ, author and license of each image.

Source: the README of the data set's repository: images/<split>/<species id>/<image id>.jpg, plantnet300K_metadata.json,
plantnet300K_species_id_2_name.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.data.make_config import MakePhotographsConfig, make_shards
from umbel.data.photograph import find_photographs
from umbel.data.photograph_set import Photograph, PhotographSet, fingerprint_of, key_of, state_of
from umbel.data.table import read_object, read_table
from umbel.run import UserError, say

SPLITS = ("train", "val", "test")
METADATA = "plantnet300K_metadata"
NAMES = "plantnet300K_species_id_2_name.json"
IDENTITIES = ("image_id", "id", "image", "hash", "")
"""Names of the metadata's column of image ids, where it is a CSV file (without one: the index of a data frame)."""


@dataclass(frozen=True, kw_only=True)
class MakePlantnet300kConfig(MakePhotographsConfig):
    """Make shards of Pl@ntNet-300K: the splits train, val and test."""

    data: Annotated[Path, tyro.conf.Positional]
    """The folder with images/ (or train/, val/, test/) and the metadata, JSON or CSV."""


def make_plantnet300k(config: MakePlantnet300kConfig) -> None:
    """Make shards of Pl@ntNet-300K.

    Labels number the species ids sorted as text, as the data set's own class_idx_to_species_id.json does; classes.txt
    has the species' names.

    Raises:
        UserError: the folder is not laid out so, a metadata file cannot be read, or see `make_shards`.
    """
    make_shards(config, "plantnet300k", read_plantnet300k(config.data))


def read_plantnet300k(root: Path) -> PhotographSet:
    """List the photographs with what the metadata says of them.

    Raises:
        UserError: the folder is not laid out as Pl@ntNet-300K, or a metadata file cannot be read.
    """
    images = root / "images" if (root / "images").is_dir() else root
    folders = {split: found for split in SPLITS if (found := _split_folder(images, split)) is not None}
    if not folders:
        raise UserError(f"{root} holds no images/train, images/val or images/test: give the folder of Pl@ntNet-300K.")
    files = {split: find_photographs(folder) for split, folder in folders.items()}
    there = {file.parent.name for found in files.values() for file in found}
    if not there:
        raise UserError(f"{images} holds no photographs (<split>/<species id>/<image id>.jpg).")
    metadata, source = _metadata_of(root)
    names = read_object(root / NAMES) if (root / NAMES).is_file() else {}
    # Named species count too, so that labels are the same where some splits or species are left away.
    species = sorted(there | set(names))
    labels = {name: label for label, name in enumerate(species)}
    say(f"{len(there):,} species, {len(there & set(names)):,} of them named by {NAMES}, which names {len(names):,}")
    known = sum(file.stem in metadata for found in files.values() for file in found)
    say(f"{known:,} of {sum(map(len, files.values())):,} images are described by {source}")

    def photograph(file: Path) -> Photograph:
        identity = file.parent.name
        return Photograph(
            path=str(file),
            key=key_of(file.relative_to(images)),
            label=labels[identity],
            class_name=str(names.get(identity, identity)),
            metadata={"image_id": file.stem, "species_id": identity} | dict(metadata.get(file.stem, {})),
        )

    return PhotographSet(
        splits={split: tuple(photograph(file) for file in found) for split, found in files.items() if found},
        classes=tuple(str(names.get(name, name)) for name in species),
        fingerprint=fingerprint_of(
            [state_of(images, found) for found in files.values()], sorted(metadata.items()), sorted(names.items())
        ),
    )


def _split_folder(images: Path, split: str) -> Path | None:
    """The folder of a split: `train`, or `images_train` as an early version had it."""
    return next((path for name in (split, f"images_{split}") if (path := images / name).is_dir()), None)


def _metadata_of(root: Path) -> tuple[Mapping[str, Mapping[str, Any]], str]:
    """Image id -> organ, author, license and what else is told; and the name of the file that tells it."""
    found = next(
        (root / f"{METADATA}{kind}" for kind in (".json", ".csv") if (root / f"{METADATA}{kind}").is_file()), None
    )
    found = found or next(iter(sorted(root.glob("*metadata*.csv"))), None)
    if found is None:
        say(f"{root} has no {METADATA}.json or .csv: organ, author and license stay unknown.")
        return {}, "no file"
    if found.suffix == ".json":
        metadata = read_object(found)
    else:
        rows = list(read_table(found, needed=()))
        column = next((name for name in IDENTITIES if rows and name in rows[0]), None)
        if column is None:
            raise UserError(f"{found} has no column of image ids ({', '.join(filter(None, IDENTITIES))}).")
        metadata = {row[column]: {name: row[name] for name in row if name != column and row[name]} for row in rows}
    if not all(isinstance(row, dict) for row in metadata.values()):
        raise UserError(f"{found} does not describe images (image id: species id, organ, author, license).")
    return metadata, found.name
