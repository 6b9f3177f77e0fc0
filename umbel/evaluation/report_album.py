"""Photographs of a report by their key: thumbnails beside the features, codes or mistakes that were found on them."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

from umbel.data.index import ShardSet
from umbel.data.reader import ShardReader
from umbel.evaluation.report_html import Markup, figure, picture, tag
from umbel.evaluation.report_pictures import read


class Album:
    """Shards that are asked by key."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.reader = ShardReader(shards)
        self._sample = {bytes(key).decode(): number for number, key in enumerate(shards.keys)}

    def holds(self, keys: Iterable[str]) -> bool:
        """Whether every one of these photographs is here."""
        return all(key in self._sample for key in keys)

    def thumbnail(self, key: str, side: int) -> Image.Image | None:
        """A photograph whose longer side is at most `side` pixels; None where it is damaged."""
        photograph = read(self.reader, self._sample[key])
        if photograph is None:
            return None
        image = Image.fromarray(photograph.permute(1, 2, 0).numpy())
        image.thumbnail((side, side))
        return image

    def cell(self, key: str, alt: str, caption: str, *, side: int, kind: str = "") -> Markup:
        """A photograph over its caption, or a word where it is damaged."""
        image = self.thumbnail(key, side)
        shown = tag("span", "damaged") if image is None else picture(image, alt)
        return figure(shown, caption, class_=kind)


def same_photographs(provenance: dict[str, object], splits: tuple[str, ...], shards: ShardSet) -> bool:
    """Whether a set's provenance names these very shards; provenance without a fingerprint is believed."""
    told = provenance.get("data")
    fingerprint = told.get("fingerprint") if isinstance(told, dict) else None
    if not {*splits} <= {shard.split for shard in shards.shards}:
        return False
    return fingerprint in (None, shards.select(splits).fingerprint())


def class_name(classes: tuple[str, ...], label: int) -> str:
    """The species of a label."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"
