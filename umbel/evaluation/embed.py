"""`umbel embed BACKBONE --data DATA --out DIR`: photographs to features that are stored with where they come from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from umbel.backbones import Backbone, load
from umbel.config import first_difference
from umbel.data.index import ShardSet
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import extract, fingerprint, open_data
from umbel.machine import DeviceChoice, choose_device, choose_precision, choose_workers
from umbel.run import UserError, move_aside, read_json, say, sync_folder

FILES = ("embeddings.safetensors", "keys.txt", "embeddings.json")
NAMED = 10


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embed photographs with a backbone."""

    backbone: Annotated[str, tyro.conf.Positional]
    """A run, a folder with config.json and model.safetensors, a released checkpoint, hf-hub:NAME, or a timm model."""
    data: str
    """Shards, or a folder of photographs (made into shards in OUT/shards)."""
    out: Path
    """Folder for the embeddings."""
    splits: tuple[str, ...] = ()
    """Splits to embed; all of them if none is given."""
    batch: int = 256
    """Photographs in a batch."""
    device: DeviceChoice = "auto"
    """Where the backbone runs."""
    workers: int = -1
    """Processes that decode and resize; -1: chosen by the processors at hand, 0: this process itself."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        check_loading(self.batch, self.workers)


def check_loading(batch: int, workers: int) -> None:
    """Check what every command that embeds asks for.

    Raises:
        ValueError: below what is possible.
    """
    for name, value, low in (("batch", batch, 1), ("workers", workers, -1)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, not {value}")


def run(config: EmbedConfig) -> None:
    """Embed and store; the same inputs again change nothing.

    Raises:
        UserError: no such backbone or data, or --out holds something else.
    """
    backbone = load(config.backbone)
    inputs = {
        "backbone": weights_sha256(backbone),
        "preprocessing": preprocessing(backbone),
        "data": fingerprint(config.data),
        "splits": sorted(config.splits),
    }
    difference = _difference(config.out, inputs)
    if difference == "":
        say(f"{config.out} already holds these embeddings.")
        return
    if difference and not config.force:
        raise UserError(f"{config.out} {difference}: choose another --out, or --force to move it aside.")
    if difference:
        say(f"moved aside: {move_aside(config.out)}")
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    made = embed(
        backbone,
        open_data(config.data, config.out / "shards", backbone.card.image_size, workers=config.workers),
        device=device.value,
        batch=config.batch,
        workers=int(choose_workers(config.workers, 1).value),
        splits=config.splits or None,
    )
    made.provenance.update(inputs=inputs, given={"backbone": config.backbone, "data": config.data})
    _save_into(config.out, made)
    count, width = made.features.shape
    say(f"{config.out}: {count} embeddings of width {width}, {made.provenance['images_per_second']} images/s.")


def embed(
    backbone: Backbone,
    shards: ShardSet,
    *,
    device: str,
    batch: int = 256,
    workers: int = 0,
    splits: Sequence[str] | None = None,
) -> Embeddings:
    """Embed the photographs of shards, or of some of their splits, as the backbone's own transform prepares them.

    In float32 on a CPU, in bf16 autocast on a GPU that computes in it. Damaged photographs are left out and named.

    Raises:
        UserError: no photographs, a split that is not there, or features that are not finite.
    """
    forward, precision = features_by(backbone.model.to(device).eval(), device)
    told = {
        "backbone": {"source": backbone.source, "sha256": weights_sha256(backbone)},
        "preprocessing": preprocessing(backbone),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "precision": precision,
    }
    reading: dict[str, Any] = {"batch": batch, "workers": workers, "splits": splits, "pin": device == "cuda"}
    made = extract(shards, backbone.transform, forward, provenance=told, **reading)
    bad = made.provenance["left_out"]
    for key, reason in list(bad.items())[:NAMED]:
        say(f"left out: {key}: {reason}")
    if len(bad) > NAMED:
        say(f"left out: {len(bad) - NAMED} more.")
    return made


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


def _difference(out: Path, inputs: dict[str, Any]) -> str | None:
    """Why `out` cannot take embeddings of these inputs; "" if it holds them, None if it is free or was interrupted."""
    if not out.exists():
        return None
    if not out.is_dir():
        return "is a file"
    if (out / FILES[2]).is_file():
        there = read_json(out / FILES[2], "the embeddings' record")["provenance"].get("inputs", {})
        found = first_difference(there, inputs, ())
        return f"holds other embeddings ({found})" if found else ""
    ours = {*FILES, "shards", ".embeddings", "..embeddings.tmp"}
    strangers = sorted(path.name for path in out.iterdir() if path.name not in ours)
    return f"holds other files ({strangers[0]})" if strangers else None


def _save_into(out: Path, made: Embeddings) -> None:
    """Store beside the shards that `out` may hold; the record comes last, and without it there are no embeddings."""
    out.mkdir(parents=True, exist_ok=True)
    beside = out / ".embeddings"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(beside)
    made.save(beside)
    for name in FILES:
        (beside / name).replace(out / name)
    beside.rmdir()
    sync_folder(out)


def weights_sha256(backbone: Backbone) -> str:
    """Hash of the backbone's model.safetensors; of its weights where they are from elsewhere."""
    file = Path(backbone.source.removeprefix("folder ")) / "model.safetensors"
    if file.is_file():
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def preprocessing(backbone: Backbone) -> str:
    """What happens to a photograph on its way to a feature, in words."""
    steps = getattr(backbone.transform, "transforms", [backbone.transform])
    return f"{'; '.join(str(step) for step in steps)}; features pooled by '{backbone.card.global_pool}', not normalized"
