"""What tasks of the GPU suite share: device, models, photographs, and the command `umbel`."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import torch

from umbel.backbones.build import BackboneConfig
from umbel.config import from_values, read_recipe
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.machine import choose_precision
from umbel.ssl.head import HeadConfig
from umbel.ssl.pretrain_config import PretrainConfig

CHECKOUT = Path(__file__).parents[1]
MODELS = {
    "ViT-S": ("vits16", "vit_small_patch16_224"),
    "ViT-B": ("vitb16", "vit_base_patch16_224"),
    "ViT-L": ("vitb16", "vit_large_patch16_224"),
}
"""Recipe and backbone; a ViT-L is trained as a ViT-B is."""
PLANTS = {"train": 6000, "test": 1200}
TINY_PLANTS = {"train": 240, "test": 48}


class SkippedError(Exception):
    """This Umbel has no code for a task."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and on what a task runs."""

    device: torch.device
    tiny: bool
    data: str | None
    work: Path

    @classmethod
    def of(cls, device: str, *, tiny: bool, data: str | None, work: Path) -> Context:
        """The context of a device by its name."""
        return cls(device=torch.device(device), tiny=tiny, data=data, work=work)

    def setting(self) -> dict[str, Any]:
        """Where a result comes from."""
        return measuring.setting(self.device) | {"data": self.data or "drawn plants", "tiny": self.tiny}

    def precision(self) -> str:
        """bf16 where it is native."""
        return choose_precision("auto", self.device.type).value

    def config(self, model: str, batch: int) -> PretrainConfig:
        """A model's configuration: patch 16, 2 views of 224 px and 10 of 96."""
        recipe, name = MODELS[model]
        config = from_values(PretrainConfig(data="", out=self.work), read_recipe(recipe, "pretrain"), recipe)
        config = dataclasses.replace(
            config,
            device=self.device.type,
            backbone=dataclasses.replace(config.backbone, name=name),
            train=dataclasses.replace(config.train, batch=batch),
        )
        return self.shrunk(config) if self.tiny else config

    def shrunk(self, config: PretrainConfig) -> PretrainConfig:
        """The same with a tiny network and tiny views."""
        return dataclasses.replace(
            config,
            backbone=BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8, registers=2),
            head=HeadConfig(hidden=64, width=32),
            views=dataclasses.replace(config.views, global_size=32, local_size=16, local_views=2),
            reader=dataclasses.replace(config.reader, canvas=64),
        )

    def labeled(self) -> str:
        """The shards given, or drawn plants."""
        if self.data is not None:
            return self.data
        plants = self.work / "plants"
        if not (plants / "index.json").is_file():
            make_synthetic(MakeSyntheticConfig(out=plants, **(TINY_PLANTS if self.tiny else PLANTS)))
        return str(plants)

    def photographs(self) -> str:
        """Shards of photographs of 375 x 500 px, as iNaturalist's are, made from those given."""
        from data import find_sources, write_set

        size, count = ((48, 64), 64) if self.tiny else ((375, 500), 2048)
        folder = self.work / f"photographs-{size[0]}x{size[1]}"
        if not folder.is_dir():
            beside = self.work / f".{folder.name}.{os.getpid()}"
            write_set(beside, find_sources([Path(self.labeled())]), count, size)
            beside.rename(folder)
        return str(folder)

    def start(self, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
        """Start `umbel` with its output in a file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "umbel", *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": paths},
            )

    def umbel(self, *arguments: object, log: Path) -> None:
        """Run `umbel` to its end.

        Raises:
            RuntimeError: it failed; with the last lines that it printed.
        """
        ended_well(self.start(*arguments, log=log).wait(), log)


def ended_well(code: int, log: Path) -> None:
    """Raise what a command printed last, where it did not end with 0."""
    if code != 0:
        lines = log.read_text(errors="replace").splitlines()[-12:]
        raise RuntimeError("\n".join([f"umbel ended with {code}:", *lines]))
