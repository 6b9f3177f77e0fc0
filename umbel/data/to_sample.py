"""A shard's sample from a photograph: the JPEG within its bound, and what is known of it as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from umbel.data.convert import Sample
from umbel.data.photograph import BadPhotographError, SizeBound, convert_photograph, read_bytes
from umbel.data.photograph_set import Photograph, printable

OWN_FIELDS = ("source", "original_size", "class_name", "label")
"""What a sample's JSON holds of every photograph, over whatever else is known by these names."""


@dataclass(frozen=True, kw_only=True)
class PhotographToSample:
    """Makes samples of photographs (a class, so that processes can be handed it)."""

    bound: SizeBound
    quality: int

    def __call__(self, photograph: Photograph) -> Sample | str:
        content = photograph.content
        if isinstance(content, str):
            return content
        try:
            data = read_bytes(Path(photograph.path)) if content is None else content
            converted = convert_photograph(data, bound=self.bound, quality=self.quality)
        except BadPhotographError as error:
            return str(error)
        metadata = dict(photograph.metadata)
        metadata["source"] = printable(Path(photograph.path).name)
        metadata["original_size"] = list(converted.original_size)
        if photograph.class_name is not None:
            metadata["class_name"] = photograph.class_name
        if photograph.label is not None:
            metadata["label"] = photograph.label
        return Sample(key=photograph.key, jpg=converted.jpg, label=photograph.label, metadata=metadata)
