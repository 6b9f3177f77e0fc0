"""Tiny backbones with random weights, labeled shards whose classes are colors, and exports of all, made once."""

import functools
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", width=64, depth=2, heads=2, patch=8, registers=2)
COLORS = {"anemone": (200, 40, 40), "borago": (40, 40, 200), "crocus": (160, 160, 20), "daphne": (30, 180, 60)}
COUNTS = {"train": 8, "val": 8, "test": 6}
SIDE = 32


def randomize(model: Any) -> Any:
    """Weights of a network that has been trained, in size: the signal neither dies nor grows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.mean() > 0.5 else 0.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
    return model.eval()


def card(architecture: str, arguments: dict[str, Any], width: int, **more: str) -> ModelCard:
    statistics = {"mean": (0.4, 0.45, 0.35), "std": (0.2, 0.25, 0.3)}
    return ModelCard(
        architecture=architecture, arguments=arguments, image_size=SIDE, num_features=width, **statistics, **more
    )


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT's timm folder."""
    folder = tmp_path_factory.mktemp("backbone") / "vit"
    model = randomize(build(CONFIG, SIDE))
    write_timm_folder(folder, model.state_dict(), card(CONFIG.name, model_arguments(CONFIG, SIDE), 64))
    return folder


@pytest.fixture(scope="session")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ConvNeXt's timm folder."""
    folder = tmp_path_factory.mktemp("backbone") / "convnext"
    arguments = {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48), "conv_mlp": True}
    model = randomize(timm.create_model("convnext_atto", num_classes=0, **arguments))
    more = {"global_pool": "avg", "first_conv": "stem.0", "classifier": "head.fc"}
    write_timm_folder(folder, model.state_dict(), card("convnext_atto", arguments, 48, **more))
    return folder


def draw(color: tuple[int, int, int], seed: int) -> Image.Image:
    """A picture of one color, with coarse noise."""
    noise = np.random.default_rng(seed).normal(0, 25, (6, 8, 3))
    blocks = Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8))
    return blocks.resize((48, 36), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def colors() -> Callable[[str, int], Image.Image]:
    """Draw a photograph of a class."""
    return lambda name, seed: draw(COLORS[name], seed)


def write_shards(folder: Path, counts: dict[str, int], *, labels: bool = True) -> Path:
    folder.mkdir(parents=True)
    for place, (split, count) in enumerate(counts.items()):
        with tarfile.open(folder / f"{split}-000000.tar", "w") as tar:
            for number in range(count * len(COLORS)):
                label = number % len(COLORS)
                buffer = io.BytesIO()
                draw(list(COLORS.values())[label], 1000 * place + number).save(buffer, "JPEG", quality=92)
                members = {"jpg": buffer.getvalue()} | ({"cls": str(label).encode()} if labels else {})
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{split}_{number:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    if labels:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in COLORS))
    return folder


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write shards: split -> photographs of each class."""
    return lambda counts, **settings: write_shards(tmp_path_factory.mktemp("data") / "shards", counts, **settings)


@pytest.fixture(scope="session")
def shards(make_shards: Callable[..., Path]) -> Path:
    """Labeled shards of splits train, val and test."""
    return make_shards(COUNTS)


@pytest.fixture(scope="session")
def cache_of_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of the session's shards."""
    return tmp_path_factory.mktemp("index")


def export(*arguments: object, cache: Path) -> None:
    from umbel.cli import main

    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        assert main(["export", *map(str, arguments)]) == 0
    finally:
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def vit_exports(vit: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory, cache_of_session: Path) -> Path:
    """All formats of the ViT, the bundle of its float model."""
    out = tmp_path_factory.mktemp("vit") / "exports"
    formats = "timm,dinov2,onnx,bundle"
    export(vit, "--to", formats, "--data", shards, "--out", out, "--workers", 0, cache=cache_of_session)
    return out


@pytest.fixture(scope="session")
def int8_exports(
    vit: Path, convnext: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory, cache_of_session: Path
) -> dict[str, Path]:
    """The 8-bit models; of the ConvNeXt the bundle too."""
    root = tmp_path_factory.mktemp("int8")
    make = functools.partial(export, cache=cache_of_session)
    make(vit, "--to", "onnx", "--int8", "--out", root / "vit")
    make(
        convnext,
        "--to",
        "timm",
        "onnx",
        "bundle",
        "--int8",
        "--data",
        shards,
        "--out",
        root / "convnext",
        "--workers",
        0,
    )
    return {"vit": root / "vit", "convnext": root / "convnext"}
