"""`umbel embed BACKBONE --data DATA --out DIR`: photographs to features that are stored with where they come from.

Under a launcher (torchrun, srun) every rank embeds its parts of the photographs, and rank 0 joins them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from umbel.backbones import Backbone
from umbel.backbones.text_tower import CLAP
from umbel.data.folder import check_data
from umbel.data.index import ShardSet, find_shards
from umbel.evaluation.embed_folder import PARTS, already_there
from umbel.evaluation.embed_parts import join_parts, make_together, say_left_out
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import extract, fingerprint, open_data, versions
from umbel.evaluation.parts import Parts
from umbel.evaluation.reading import ReadConfig, load_to_read, reading_of
from umbel.evaluation.reading import preprocessing as preprocessing
from umbel.evaluation.reading import weights_sha256 as weights_sha256
from umbel.machine import DeviceChoice, choose_device, choose_precision
from umbel.ranks import from_rank_0, meet, rank_0_first
from umbel.run import UserError, rank, say


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(ReadConfig):
    """Embed photographs with a backbone."""

    backbone: Annotated[str, tyro.conf.Positional]
    """A run, a folder with config.json and model.safetensors, a released checkpoint, hf-hub:NAME, open_clip:NAME, a
    timm model, or clap:NAME for sounds."""
    data: str
    """Shards, or a folder of photographs (made into shards in OUT/shards); for clap:NAME a folder of .wav files."""
    out: Path
    """Folder for the embeddings."""
    splits: tuple[str, ...] = ()
    """Splits to embed; all of them if none is given."""
    batch: int = 256
    """Photographs in a batch."""
    part: int = 2048
    """Photographs in a part, which is stored as soon as it is made: a command that is killed loses no more."""
    device: DeviceChoice = "auto"
    """Where the backbone runs."""
    workers: int = -1
    """Processes that decode and resize; -1: chosen by the processors at hand, 0: this process itself."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loading(self.batch, self.workers)
        if self.part < 1:
            raise ValueError(f"part must be at least 1, not {self.part}")

    def check_data(self) -> None:
        """Refuse data that are not there; raises UserError."""
        check_data(self.data)


def check_loading(batch: int, workers: int) -> None:
    """Check what every command that embeds asks for.

    Raises:
        ValueError: below what is possible.
    """
    for name, value, low in (("batch", batch, 1), ("workers", workers, -1)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, not {value}")


def run(config: EmbedConfig) -> None:
    """Embed and store, or go on where a killed command was; the same inputs again change nothing.

    Raises:
        UmbelError: no such backbone or data, --out holds something else, or another rank failed.
    """
    if config.backbone.startswith(CLAP):
        from umbel.evaluation.sounds import embed_sounds

        how: dict[str, Any] = {"splits": config.splits, "reading": reading_of(config), "force": config.force}
        how["device"] = choose_device(config.device).value
        embed_sounds(config.backbone, Path(config.data), config.out, **how)
        return
    backbone = load_to_read(config.backbone, config)
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    state = meet(cpu=device.value == "cpu")
    if state.num_processes > 1 and not find_shards(config.data):
        raise UserError(
            f"{config.data} holds no shards, which several processes need: make them with `umbel shards make folder`.",
            everywhere=True,
        )
    told = provenance_of(backbone, device.value)
    inputs = {
        "backbone": told["backbone"]["sha256"],
        "preprocessing": told["preprocessing"],
        "data": fingerprint(config.data),
        "splits": sorted(config.splits),
    }
    asked = inputs | {"precision": told["precision"], "part": config.part, "versions": versions()}
    shards = rank_0_first(state, functools.partial(_open, config, backbone.card.image_size, inputs, asked))
    if from_rank_0(int(shards is None), state.device) or shards is None:
        return
    parts = Parts(config.out / PARTS, count=len(shards), size=config.part)
    model = backbone.model.to(device.value).eval()
    reading: dict[str, Any] = {"batch": config.batch, "workers": config.workers, "device": device.value}
    forward, _ = features_by(model, device.value)
    if not make_together(parts, shards, backbone.transform, forward, state=state, **reading):
        return
    told |= {"inputs": inputs, "given": {"backbone": config.backbone, "data": config.data}}
    told |= {"reading": dataclasses.asdict(reading_of(config)), "batch": config.batch}
    count, width, rate = join_parts(parts, shards, config.out, told)
    say(f"{config.out}: {count} embeddings of width {width}, {rate} images/s.")


def embed(
    backbone: Backbone,
    shards: ShardSet,
    *,
    device: str,
    batch: int = 256,
    workers: int = 0,
    splits: Sequence[str] | None = None,
) -> Embeddings:
    """Embed the photographs of shards, or of some of their splits, as the backbone's transform prepares them.

    In float32 on a CPU, in bf16 autocast on a GPU that computes in it. Damaged photographs are left out and named.

    Raises:
        UserError: no photographs, a split that is not there, or features that are not finite.
    """
    forward, _ = features_by(backbone.model.to(device).eval(), device)
    reading: dict[str, Any] = {"batch": batch, "workers": workers, "splits": splits, "pin": device == "cuda"}
    made = extract(shards, backbone.transform, forward, provenance=provenance_of(backbone, device), **reading)
    say_left_out(made.provenance["left_out"])
    return made


def provenance_of(backbone: Backbone, device: str) -> dict[str, Any]:
    """What embeddings tell of their backbone: source, hash, preprocessing, device, precision."""
    return {
        "backbone": {"source": backbone.source, "sha256": weights_sha256(backbone)},
        "preprocessing": preprocessing(backbone),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "precision": features_by(backbone.model, device)[1],
    }


def features_by(model: nn.Module, device: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """How a model on a device makes features, (B, 3, H, W) -> (B, C), and in which precision.

    In float32 on a CPU, in bf16 autocast on a GPU that computes in it.
    """
    precision = choose_precision("auto", device).value if device == "cuda" else "float32"

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            features: Tensor = model(images.to(device, non_blocking=True))
        return features

    return forward, precision


def _open(config: EmbedConfig, image_size: int, inputs: Mapping[str, Any], asked: Mapping[str, Any]) -> ShardSet | None:
    """The photographs to embed; None if `out` holds their embeddings. On rank 0 the parts' folder is made as well."""
    if rank() == 0 and already_there(config.out, inputs, asked, force=config.force):
        return None
    shards = open_data(config.data, config.out / "shards", image_size, workers=config.workers)
    chosen = shards.select(config.splits) if config.splits else shards
    if rank() == 0:
        config.out.mkdir(parents=True, exist_ok=True)
        Parts(config.out / PARTS, count=len(chosen), size=config.part).begin(asked)
    return chosen
