"""`umbel shards make flowers102` and `inaturalist`: torchvision's sets of plants, downloaded only when asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from umbel.data.make_config import MakePhotographsConfig, make_shards
from umbel.data.photograph_set import Photograph, PhotographSet, fingerprint_of, key_of, state_of
from umbel.data.sources.taxon import Taxon
from umbel.run import UserError, say

FLOWERS_SPLITS = ("train", "val", "test")
PIECES = ("kingdom", "phylum", "class", "order", "family", "genus", "specific_epithet")
"""What the name of a species' folder is made of behind its number, joined by _."""


@dataclass(frozen=True, kw_only=True)
class MakeFlowers102Config(MakePhotographsConfig):
    """Make shards of Oxford 102 Flowers, with the splits train, val and test of its authors."""

    data: Annotated[Path, tyro.conf.Positional]
    """The folder that holds flowers-102, as torchvision lays it out."""
    download: bool = False
    """Download the set (330 MB) into the folder if it is not there."""


@dataclass(frozen=True, kw_only=True)
class MakeInaturalistConfig(MakePhotographsConfig):
    """Make shards of the species of a taxon in iNaturalist 2021 as torchvision lays it out, without annotations.

    `umbel shards make inat2021` reads the competition's own files, with licenses and rights holders.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """The folder that holds the version's folder."""
    version: Literal["2021_train", "2021_train_mini", "2021_valid"] = "2021_train_mini"
    """The part of the competition's photographs."""
    taxon: str = "kingdom=Plantae"
    """The species that are taken: a name at a level (kingdom, phylum, class, order, family, genus or name)."""
    download: bool = False
    """Download the version (2021_train: 224 GB, 2021_train_mini: 42 GB, 2021_valid: 8 GB) if it is not there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Taxon.parse(self.taxon)


def make_flowers102(config: MakeFlowers102Config) -> None:
    """Make shards of Oxford 102 Flowers.

    Raises:
        UserError: it is not there, its download fails, or see `make_shards`.
    """
    from torchvision.datasets import Flowers102

    def opened(split: str) -> Any:
        construct = partial(Flowers102, config.data, split=split, download=config.download, loader=str)
        return _open(config.data, "flowers-102", config.download, construct)

    classes = tuple(Flowers102.classes)
    splits = {}
    for split in FLOWERS_SPLITS:
        dataset = opened(split)
        rows = [dataset[row] for row in range(len(dataset))]
        splits[split] = tuple(_photograph(config.data, path, label, classes[label]) for path, label in rows)
    make_shards(config, "flowers102", _as_set(config.data, splits, classes))


def make_inaturalist(config: MakeInaturalistConfig) -> None:
    """Make shards of a taxon in a version of iNaturalist 2021.

    Raises:
        UserError: it is not there, its download fails, nothing is of the taxon, or see `make_shards`.
    """
    from torchvision.datasets import INaturalist

    construct = partial(INaturalist, config.data, version=config.version, download=config.download, loader=str)
    dataset = _open(config.data, config.version, config.download, construct)
    taxon = Taxon.parse(config.taxon)
    folders = dataset.all_categories
    taxonomies = [_taxonomy(folder) for folder in folders]
    chosen = taxon.choose(taxonomies)
    labels = {place: label for label, place in enumerate(chosen)}
    classes = tuple(taxonomies[place]["name"] for place in chosen)
    found = sorted(dataset[row] for row in range(len(dataset)) if dataset.index[row][0] in labels)
    photographs = tuple(
        _photograph(config.data, path, labels[place], classes[labels[place]], taxonomy=taxonomies[place])
        for path, place in found
    )
    say(
        f"{len(chosen):,} species of {taxon} among {len(folders):,}; {len(found):,} of {len(dataset):,} images "
        f"from {config.data / config.version}"
    )
    split = "val" if config.version == "2021_valid" else "train"
    make_shards(config, "inaturalist", _as_set(config.data, {split: photographs}, classes))


def _open(root: Path, folder: str, download: bool, construct: Callable[[], Any]) -> Any:
    """Let torchvision open a set.

    Raises:
        UserError: it is not there or not whole, or its download fails.
    """
    if not download and not (root / folder).is_dir():
        # Before torchvision makes an empty folder for it.
        raise UserError(f"{root} holds no {folder}: give the folder that does, or --download to fetch it.")
    try:
        return construct()
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if download:
            raise UserError(f"{folder} could not be downloaded into {root} ({reason}): try again.") from error
        raise UserError(f"{root / folder} is not whole ({reason}): --download fetches it.") from error


def _taxonomy(folder: str) -> dict[str, str]:
    """The classification that the name of a species' folder tells."""
    found = dict(zip(PIECES, folder.split("_")[1:], strict=True))
    return found | {"name": f"{found['genus']} {found['specific_epithet']}"}


def _photograph(root: Path, path: str, label: int, name: str, **metadata: object) -> Photograph:
    key = key_of(Path(path).relative_to(root))
    return Photograph(path=path, key=key, label=label, class_name=name, metadata=metadata)


def _as_set(root: Path, splits: dict[str, tuple[Photograph, ...]], classes: tuple[str, ...]) -> PhotographSet:
    state = {split: state_of(root, [Path(row.path) for row in rows]) for split, rows in splits.items()}
    return PhotographSet(splits=splits, classes=classes, fingerprint=fingerprint_of(state))
