"""`umbel shards show`: what a set of shards looks like: a contact sheet, images by class, sizes, channel statistics."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from umbel.data.contact_sheet import Row, contact_sheet
from umbel.data.decode import FULL_SIZE, decode
from umbel.data.index import ShardSet, open_shards
from umbel.data.photograph import BadPhotographError
from umbel.data.reader import ShardReader
from umbel.picture import check_picture, save_picture
from umbel.random_stream import Purpose, stream
from umbel.run import Bar, UserError, say

COMMAND = "umbel shards show"
SHOWN_CANVAS = 224


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Show a set of shards: contact sheet, images by class, sizes, channel mean and deviation."""

    data: Annotated[str, tyro.conf.Positional]
    """A folder of shards, a shard, a brace pattern, or a URL of any of these."""
    out: Path = Path("shards.png")
    """The contact sheet (PNG); an older one is replaced."""
    classes: int = 12
    """Classes on the sheet, evenly spaced from the largest to the smallest."""
    columns: int = 8
    """Photographs of a class."""
    sample: int = 2000
    """Photographs, drawn by the seed, that sizes and channel statistics are taken from."""
    seed: int = 0
    """Seed of the photographs that are drawn."""
    json: bool = False
    """Print JSON, with every class, instead of the table."""

    def __post_init__(self) -> None:
        for name, low in (("classes", 1), ("columns", 1), ("sample", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name, high in (("classes", 1000), ("columns", 100)):
            if getattr(self, name) > high:
                raise ValueError(f"{name} must be at most {high}, not {getattr(self, name)}")


def show(config: ShowConfig) -> None:
    """Write the sheet and print what the shards hold.

    Raises:
        UserError: no such shards, no photograph of the sample can be decoded, or --out is another file.
    """
    check_picture(config.out, COMMAND)
    shards = open_shards(config.data)
    facts = {"shards": len(shards.shards), "images": len(shards)} | {
        "splits": splits(shards),
        "classes": images_by_class(shards),
        "photographs": statistics(shards, config.sample, config.seed),
    }
    sheet = contact_sheet(sheet_rows(shards, config), columns=config.columns)
    save_picture(sheet, config.out, COMMAND)
    if config.json:
        say(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    for line in table(facts):
        say(line)
    say(f"{config.out}: the contact sheet.")


def splits(shards: ShardSet) -> dict[str, int]:
    """Images of each split."""
    counts: dict[str, int] = {}
    for shard in shards.shards:
        counts[shard.split] = counts.get(shard.split, 0) + shard.count
    return dict(sorted(counts.items()))


def images_by_class(shards: ShardSet) -> dict[str, int]:
    """Images of each class, the largest first; classes without images are listed too."""
    labels = shards.members["label"]
    counts = np.bincount(labels[labels >= 0], minlength=len(shards.classes))
    names = class_names(shards, len(counts))
    return {names[label]: int(counts[label]) for label in np.argsort(-counts, kind="stable")}


def class_names(shards: ShardSet, count: int) -> list[str]:
    """The names of labels below `count`: with the number where several share a name, or where they have none."""
    often = Counter(shards.classes)
    names = [name if often[name] == 1 else f"{name} (label {label})" for label, name in enumerate(shards.classes)]
    return names + [f"class {label}" for label in range(len(names), count)]


def statistics(shards: ShardSet, sample: int, seed: int) -> dict[str, Any]:
    """Sizes and channel statistics of photographs drawn by the seed, every pixel counting alike.

    Returns:
        count and bad (photographs), width, height and bytes (least, quartiles, greatest), mean and std (RGB in [0, 1]).

    Raises:
        UserError: none of them can be decoded.
    """
    drawn = stream(seed, 0, Purpose.ORDER).permutation(len(shards))[:sample]
    reader = ShardReader(shards)
    sizes, lengths, bad = [], [], 0
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    with Bar("reading photographs", len(drawn)) as bar:
        for number in sorted(drawn.tolist()):
            jpg = reader.read(number, "jpg")
            bar.advance()
            try:
                image = decode(jpg, canvas=FULL_SIZE)
            except BadPhotographError:
                bad += 1
                continue
            levels = image.flatten(1).float() / 255
            total += levels.sum(1, dtype=torch.float64)
            squares += levels.square().sum(1, dtype=torch.float64)
            sizes.append(image.shape[1:])
            lengths.append(len(jpg))
    if not sizes:
        raise UserError(f"none of the {len(drawn)} photographs drawn can be decoded: see `umbel shards check`.")
    height, width = np.array(sizes).T
    pixels = int((height * width).sum())
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    return {
        "count": len(sizes),
        "bad": bad,
        "width": quartiles(width),
        "height": quartiles(height),
        "bytes": quartiles(np.array(lengths)),
        "mean": [round(value, 4) for value in mean.tolist()],
        "std": [round(value, 4) for value in std.tolist()],
    }


def quartiles(values: np.ndarray) -> list[int]:
    """Least, lower quartile, median, upper quartile and greatest, in whole numbers."""
    return [round(float(value)) for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]


def table(facts: dict[str, Any]) -> list[str]:
    """What the shards hold, for people."""
    classes, found = facts["classes"], facts["photographs"]
    counts = ", ".join(f"{split} {count:,}" for split, count in facts["splits"].items())
    lines = [f"{facts['shards']:,} shards, {facts['images']:,} images ({counts})"]
    if classes:
        least, lower, median, upper, greatest = quartiles(np.array(list(classes.values())))
        lines.append(
            f"{len(classes):,} classes; images of a class: least {least:,}, quartiles {lower:,} {median:,} {upper:,}, "
            f"most {greatest:,}"
        )
        names = list(classes)
        shown = names if len(names) <= 12 else [*names[:6], *names[-6:]]
        for name in shown:
            lines.append(f"  {classes[name]:>9,}  {name}")
            if len(shown) < len(names) and name == names[5]:
                lines.append("        ...")
    else:
        lines.append("no classes")
    damaged = f", {found['bad']} of them damaged" if found["bad"] else ""
    lines.append(f"{found['count'] + found['bad']:,} photographs drawn{damaged}; least, quartiles, greatest:")
    for name in ("width", "height", "bytes"):
        lines.append(f"  {name:<7}" + " ".join(f"{value:>10,}" for value in found[name]))
    for name in ("mean", "std"):
        lines.append(f"  {name:<7}" + " ".join(f"{value:>10.4f}" for value in found[name]) + "   (R, G, B in [0, 1])")
    return lines


def sheet_rows(shards: ShardSet, config: ShowConfig) -> list[Row]:
    """The sheet's rows: some photographs of classes from the largest to the smallest, or of the whole set."""
    generator = stream(config.seed, 1, Purpose.ORDER)
    labels = shards.members["label"]
    counts = np.bincount(labels[labels >= 0], minlength=1)
    present = np.flatnonzero(counts)
    reader = ShardReader(shards)
    if not len(present):
        chosen = generator.permutation(len(shards))[: config.columns * config.classes]
        return [Row(title=f"{len(shards):,} images without labels", photographs=_decoded(reader, chosen))]
    names = class_names(shards, len(counts))
    ranked = present[np.argsort(-counts[present], kind="stable")]
    picked = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(config.classes, len(ranked))).round().astype(int))]
    rows = []
    for label in picked.tolist():
        chosen = generator.permutation(np.flatnonzero(labels == label))[: config.columns]
        title = f"{names[label]}: {counts[label]:,} images"
        rows.append(Row(title=title, photographs=_decoded(reader, chosen)))
    return rows


def _decoded(reader: ShardReader, samples: np.ndarray) -> list[Tensor]:
    """The photographs of some samples; a damaged one is a black square."""
    images = []
    for sample in samples.tolist():
        try:
            images.append(decode(reader.read(sample, "jpg"), canvas=SHOWN_CANVAS))
        except BadPhotographError:
            images.append(torch.zeros((3, SHOWN_CANVAS, SHOWN_CANVAS), dtype=torch.uint8))
    return images
