"""An adapted backbone in its coder's folder: the adapters alone, and the network with them merged into its weights.

The merged one is a backbone like any other, so that `umbel embed CODER/backbone` embeds by it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm.data
import torch
from safetensors.torch import save_file

from umbel.backbones import Backbone, load, open_clip_tower
from umbel.backbones.folder import write_timm_folder
from umbel.backbones.open_clip_tower import OpenClipTower
from umbel.backbones.text_tower import OpenClipText
from umbel.evaluation.embed import preprocessing, weights_sha256
from umbel.evaluation.hashing.lora import Adapted, write_adapter
from umbel.evaluation.hashing.stored_tower import BACKBONE
from umbel.run import UserError, say

ADAPTERS = {"image": "adapter", "text": "adapter-text"}
TOLERANCE = 1e-4
"""Of the merged network's features, relative to the largest."""
PREPROCESSING = ("interpolation", "crop_pct", "crop_mode")


def write_adapted(
    folder: Path, backbone: Backbone, image: Adapted, text: tuple[OpenClipText, Adapted] | None, name: str
) -> dict[str, Any]:
    """Merge, write and read again; ends `image` and `text`.

    Args:
        backbone: that `image` adapts; text: the text tower of the same model, where that is adapted too.
        name: of the folder as it will be called.

    Returns:
        What the coder's record tells of its backbone.

    Raises:
        UserError: what was written gives other features.
    """
    image.network.to("cpu").eval()
    card = backbone.card
    images = torch.randn((2, 3, card.image_size, card.image_size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = image.network(images)
    write_adapter(folder / ADAPTERS["image"], image.tensors(), image.config)
    merged, full = image.merge(), None
    if text is not None:
        tower, adapted = text
        adapted.network.to("cpu").eval()
        write_adapter(folder / ADAPTERS["text"], adapted.tensors(), adapted.config)
        adapted.merge()
        full = tower.model
    if isinstance(merged, OpenClipTower):
        _write_open_clip(folder / BACKBONE, merged, full)
    else:
        write_timm_folder(folder / BACKBONE, merged.state_dict(), card)
        _keep_preprocessing(folder / BACKBONE / "config.json", backbone)
    again = load(folder / BACKBONE)
    with torch.inference_mode():
        difference = float((again.model(images) - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE or preprocessing(again) != preprocessing(backbone):
        raise UserError(
            f"the adapted backbone gives other features after loading again (by {difference:.2g}, relative to the "
            f"largest): backbone {backbone.source} cannot be kept in a folder."
        )
    say(f"adapted backbone: {name}; largest difference of its merged weights' features: {difference:.1g}, relative.")
    kind = open_clip_tower.PREFIX + "local-dir:" if isinstance(merged, OpenClipTower) else "folder "
    return {
        "backbone": {"source": kind + name, "sha256": weights_sha256(again)},
        "adapted": {"source": backbone.source, "rank": int(image.config.r), "text": text is not None},
    }


def _keep_preprocessing(config: Path, backbone: Backbone) -> None:
    """Photographs are prepared as for the backbone itself, which may not be as for Umbel's own."""
    told = json.loads(config.read_text())
    settings = timm.data.resolve_model_data_config(backbone.model)
    told["pretrained_cfg"] |= {name: settings[name] for name in PREPROCESSING}
    config.write_text(json.dumps(told, indent=2) + "\n")


def _write_open_clip(folder: Path, tower: OpenClipTower, full: Any | None) -> None:
    """The files that open_clip loads as local-dir:FOLDER.

    Args:
        full: the model with its own text tower adapted; None: as it was.
    """
    name = tower.pretrained_cfg["architecture"].removeprefix(open_clip_tower.PREFIX)
    full = open_clip_tower.load_model(name) if full is None else full
    full.visual.load_state_dict(tower.visual.state_dict())
    library = open_clip_tower.import_open_clip(name)
    architecture = open_clip_tower.parts_of(name)[0]
    settings = tower.visual.preprocess_cfg
    kept = {key: settings[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    told = {"model_cfg": library.get_model_config(architecture), "preprocess_cfg": kept}
    folder.mkdir()
    (folder / open_clip_tower.CONFIG).write_text(json.dumps(told, indent=2) + "\n")
    # Cloned: towers may share a tensor, which a file of safetensors cannot.
    weights = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in full.state_dict().items()}
    save_file(weights, folder / open_clip_tower.WEIGHTS, metadata={"format": "pt"})
    tokenizer = library.get_tokenizer(architecture)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
