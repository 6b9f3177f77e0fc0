"""How a backbone reads photographs: by its own preprocessing, at another size, or as the plant paper does.

The protocol of the paper (arXiv 2604.27538) is what stands beside published figures.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm.data
import torch
from torchvision import transforms

from umbel.backbones import Backbone, load
from umbel.backbones.weights_hash import state_sha256
from umbel.evaluation.tokens import WORDS, TokenReader, Tokens, network_of
from umbel.run import UserError, say

Protocol = Literal["own", "paper"]
PAPER_SIDE, PAPER_CROP = 256, 224
PAPER_MEAN, PAPER_STD = (0.429, 0.459, 0.328), (0.221, 0.215, 0.221)


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How photographs become features."""

    tokens: Tokens = "pooled"
    """What stands for a photograph: as the network pools by itself, its class token, mean of patches, or both."""
    image_size: int | None = None
    """Side of the images in pixels; the backbone's own if not given. A ViT's positions are interpolated."""
    protocol: Protocol = "own"
    """own: the backbone's preprocessing; paper: squashed to 256, crop 224, the paper's statistics, class token."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {self.image_size}")
        if self.protocol == "paper" and (self.tokens not in ("pooled", "class") or self.image_size is not None):
            raise ValueError(
                f"protocol paper fixes tokens ({self.tokens}) and image_size ({self.image_size}): leave them out"
            )


def reading_of(config: ReadConfig) -> ReadConfig:
    """The part of a command's configuration that says how photographs are read."""
    return ReadConfig(tokens=config.tokens, image_size=config.image_size, protocol=config.protocol)


def load_to_read(name: str, config: ReadConfig) -> Backbone:
    """Load a backbone by any name so that its model and transform read photographs as asked; what that is, is printed.

    Raises:
        UserError: no such backbone, or it has no such tokens or cannot take images of that size.
    """
    anything = config.image_size is not None or config.protocol == "paper"
    read = read_as(load(name, any_size=anything), config)
    say(f"preprocessing ({config.protocol}): {preprocessing(read)}.")
    return read


def read_again(name: str, provenance: Mapping[str, Any]) -> Backbone:
    """Load a backbone so that it reads photographs as those were read whose provenance is given.

    Raises:
        UserError: see `load_to_read`.
    """
    told = chosen_reading(provenance)
    return load(name) if told is None else read_as(load(name, any_size=True), ReadConfig(**told))


def chosen_reading(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """How embeddings' photographs were read, where that is not how the backbone reads by itself."""
    told = provenance.get("reading")
    return told if isinstance(told, dict) and told != dataclasses.asdict(ReadConfig()) else None


def read_as(backbone: Backbone, config: ReadConfig) -> Backbone:
    """The backbone with its transform and model replaced by what is asked; see `load_to_read`."""
    paper = config.protocol == "paper"
    tokens: Tokens = "class" if paper else config.tokens
    size = PAPER_CROP if paper else config.image_size
    changes: dict[str, Any] = {}
    if size is not None:
        _check_size(backbone, size)
        changes["transform"] = paper_transform() if paper else _resized(backbone, size)
        statistics: dict[str, Any] = {"mean": PAPER_MEAN, "std": PAPER_STD} if paper else {}
        changes["card"] = dataclasses.replace(backbone.card, image_size=size, **statistics)
    if tokens != "pooled":
        try:
            changes["model"] = TokenReader(backbone.model, tokens).eval()
        except ValueError as error:
            if paper:
                raise UserError(
                    f"--protocol paper reads the class token, which backbone {backbone.source} does not give: "
                    "take --protocol own."
                ) from error
            raise UserError(f"backbone {backbone.source} {error}.") from error
    read = dataclasses.replace(backbone, **changes)
    return dataclasses.replace(read, dim=_width(read)) if changes else read


def preprocessing(backbone: Backbone) -> str:
    """What happens to a photograph on its way to a feature, in words."""
    steps = getattr(backbone.transform, "transforms", [backbone.transform])
    model = backbone.model
    made = WORDS[model.tokens] if isinstance(model, TokenReader) else f"pooled by '{backbone.card.global_pool}'"
    return f"{'; '.join(str(step) for step in steps)}; features {made}, not normalized"


def weights_sha256(backbone: Backbone) -> str:
    """Hash of the backbone's model.safetensors; of its weights where they are from elsewhere."""
    file = Path(backbone.source.removeprefix("folder ")) / "model.safetensors"
    if file.is_file():
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return state_sha256(network_of(backbone.model))


def paper_transform() -> transforms.Compose:
    """A photograph as the paper evaluates it: squashed to a square, whatever its aspect, and the middle cut out."""
    return transforms.Compose(
        [
            transforms.Resize((PAPER_SIDE, PAPER_SIDE), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(PAPER_CROP),
            transforms.ToTensor(),
            transforms.Normalize(PAPER_MEAN, PAPER_STD),
        ]
    )


def _resized(backbone: Backbone, size: int) -> Any:
    """The backbone's own transform for images of another size: the same share of the photograph is seen."""
    settings = timm.data.resolve_model_data_config(backbone.model) | {"input_size": (3, size, size)}
    return timm.data.create_transform(**settings, is_training=False)


def _check_size(backbone: Backbone, size: int) -> None:
    patch = backbone.patch
    if patch is not None and size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        near = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"image size {size} is no multiple of the {patch} pixels of a patch of {backbone.source}: take {near}."
        )


def _width(backbone: Backbone) -> int:
    """C: of the features of one gray image, which also shows whether the network takes images of this size."""
    size = backbone.card.image_size
    try:
        with torch.inference_mode():
            return int(backbone.model(torch.zeros(1, 3, size, size)).shape[1])
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"backbone {backbone.source} cannot take images of {size} pixels ({reason}).") from error
