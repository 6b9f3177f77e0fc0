"""`umbel shards make inat2021`: iNaturalist 2021, from its JSON files and its image folders or archives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.data.make_config import MakePhotographsConfig, check_split, make_shards
from umbel.data.photograph_set import LazyRows, Photograph, PhotographSet, fingerprint_of
from umbel.data.sources.inat2021_json import Annotations
from umbel.data.sources.taxon import Taxon
from umbel.data.stream import OPENERS, is_archive, tail
from umbel.run import UserError, say

SPLITS = {"train": "train", "train_mini": "train", "val": "val"}
HEAD = 4096
"""Bytes of an archive that it is recognised by: so few that one cut off there has given no photograph yet."""
PLANTAE_SPECIES = 4271
"""Species of the kingdom Plantae in the whole competition."""


@dataclass(frozen=True, kw_only=True)
class MakeInat2021Config(MakePhotographsConfig):
    """Make shards of the species of a taxon in iNaturalist 2021, plants by default.

    The photographs are the competition's, for non-commercial research; each sample keeps its license and rights holder.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """train.json, train_mini.json or val.json; several make the shards of several splits."""
    images: Path | None = None
    """The photographs of a single JSON file: an archive (.tar.gz, .tar; read as a stream, never unpacked) or a folder.
    By default what lies beside it under its name: the folder train, train.tar or train.tar.gz."""
    split: str | None = None
    """Split of a single JSON file; by default told by its name."""
    taxon: str = "kingdom=Plantae"
    """The species that are taken: a name at a level (kingdom, phylum, class, order, family, genus, name or
    supercategory)."""
    keep_location: bool = False
    """Keep the coordinates of each photograph, and their uncertainty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Taxon.parse(self.taxon)
        if not self.data:
            raise UserError("give one of the competition's files: train.json, train_mini.json or val.json.")
        if len(self.data) > 1 and (self.images is not None or self.split is not None):
            raise UserError("--images and --split are for a single JSON file, not for several.")
        if self.split is not None:
            check_split(self.split)


def make_inat2021(config: MakeInat2021Config) -> None:
    """Make shards of a taxon in iNaturalist 2021.

    Raises:
        UserError: a file is missing or damaged, nothing is of the taxon, or see `make_shards`.
    """
    taxon = Taxon.parse(config.taxon)
    splits: dict[str, LazyRows] = {}
    archives: dict[str, Path] = {}
    names: list[tuple[str, ...]] = []
    identity: list[object] = []
    for path in config.data:
        split = config.split or _split_of(path)
        if split in splits:
            raise UserError(f"{path} is a second file of split {split}: make shards of it in a folder of their own.")
        images = config.images or _images_beside(path)
        say(f"reading {path}: a minute for the whole competition.")
        annotations = Annotations(path, taxon, keep_location=config.keep_location)
        root = "" if is_archive(images) else f"{_root_of(images, annotations)}/"
        splits[split] = LazyRows(len(annotations), Photographs(annotations, root))
        identity.append((split, annotations.fingerprint))
        if is_archive(images):
            archives[split] = images
            identity.append(_head_of(images))
        names.append(tuple(category.name for category in annotations.categories.values()))
        _say_counts(annotations, taxon, split, images)
    if len(set(names)) > 1:
        raise UserError("the files do not list the same species, so their labels would not mean the same.")
    photographs = PhotographSet(
        splits=splits, classes=names[0], fingerprint=fingerprint_of(*identity), archives=archives
    )
    make_shards(config, "inat2021", photographs)


@dataclass(frozen=True)
class Photographs:
    """Makes the photograph of a row."""

    annotations: Annotations
    root: str
    """What stands in front of a file's name; nothing in an archive."""

    def __call__(self, row: int) -> Photograph:
        annotations = self.annotations
        category = annotations.categories[annotations.category_ids[row]]
        name = annotations.file_name(row)
        return Photograph(
            path=f"{self.root}{tail(name)}" if self.root else name,
            key=f"inat2021_{annotations.ids[row]:07d}",
            label=category.label,
            class_name=category.name,
            metadata=annotations.metadata(row),
        )


def _split_of(path: Path) -> str:
    if path.stem not in SPLITS:
        raise UserError(f"{path}: its name tells no split (train.json, train_mini.json, val.json): say --split.")
    return SPLITS[path.stem]


def _images_beside(path: Path) -> Path:
    """The archive or folder of a JSON file's photographs.

    Raises:
        UserError: there is neither.
    """
    for suffix in ("", *OPENERS):
        found = path.with_name(path.stem + suffix)
        if found.is_file() if suffix else found.is_dir():
            return found
    raise UserError(f"{path}: there are no photographs beside it ({path.stem}.tar.gz or {path.stem}/): say --images.")


def _root_of(images: Path, annotations: Annotations) -> Path:
    """The folder that holds the species' folders: `images` itself, or one in it that file names begin with.

    Raises:
        UserError: neither holds the first species' folder.
    """
    folder = Path(annotations.file_name(0)).parent
    for root in (images, images / folder.parent):
        if (root / folder.name).is_dir():
            return root
    raise UserError(f"{images} is no archive (.tar.gz, .tar) and holds no folder {folder} or {folder.name}.")


def _head_of(archive: Path) -> str:
    """A hash of an archive's beginning: the same when a download that broke off is completed."""
    try:
        with archive.open("rb") as file:
            return hashlib.sha256(file.read(HEAD)).hexdigest()
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}).") from error


def _say_counts(annotations: Annotations, taxon: Taxon, split: str, images: Path) -> None:
    species = len(annotations.categories)
    whole = ""
    if (taxon.level, taxon.value) == ("kingdom", "Plantae"):
        whole = (
            " (all of the competition's)" if species == PLANTAE_SPECIES else f" (the competition: {PLANTAE_SPECIES:,})"
        )
    say(
        f"{split}: {species:,} species of {taxon}{whole} among {annotations.all_categories:,}; "
        f"{len(annotations):,} of {annotations.all_images:,} images, from {images}"
    )
