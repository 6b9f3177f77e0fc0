"""The timm folder: config.json and model.safetensors, what every checkpoint, export and import of Umbel is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

# The share of a photograph's shorter side that evaluation sees: 224 of 256, as the plant paper evaluates.
CROP_SHARE = 0.875


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What timm needs to build a backbone and prepare its images."""

    architecture: str
    arguments: dict[str, Any]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_features: int
    global_pool: str = "token"
    first_conv: str = "patch_embed.proj"
    classifier: str = "head"

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.num_features,
            "global_pool": self.global_pool,
            "model_args": self.arguments,
            "pretrained_cfg": {
                "tag": "umbel",
                "custom_load": False,
                "input_size": [3, self.image_size, self.image_size],
                "fixed_input_size": False,
                "interpolation": "bicubic",
                "crop_pct": CROP_SHARE,
                "crop_mode": "center",
                "mean": list(self.mean),
                "std": list(self.std),
                "num_classes": 0,
                "first_conv": self.first_conv,
                "classifier": self.classifier,
            },
        }


def write_timm_folder(folder: Path, weights: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write the two files that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(card.config(), indent=2) + "\n")
