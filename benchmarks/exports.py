"""What an export costs and saves: largest difference, size and latency of every format beside torch.

python benchmarks/exports.py [--backbone RUN ...] [--seconds 1] [--cpu-time] [--json FILE]

Without --backbone: a ViT-Ti/16 and a ConvNeXt-Atto with random weights of the size that trained ones have.
"""

from __future__ import annotations

import measuring  # first: it sets what torch reads when it is imported

# isort: split
import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from numpy.typing import NDArray

from umbel.backbones import Backbone, load
from umbel.backbones.authors import read_released
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.dinov2_file import dinov2_state
from umbel.backbones.family import family_of
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.evaluation.exporting.onnx_target import FLOAT_FILE, INT8_FILE, write_float, write_int8
from umbel.evaluation.exporting.sample_images import dead_leaves
from umbel.evaluation.exporting.self_test import by_torch, sample_batches
from umbel.image_statistics import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD

Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]
BATCHES = (1, 32)
CALIBRATION = 16
VIT, CONVNEXT = "vit_tiny_patch16_224", "convnext_atto"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One export of a backbone."""

    name: str
    size: int
    features: Features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="*", type=Path, default=[], help="runs or timm folders")
    parser.add_argument("--image-size", type=int, default=224, help="of the random ones, in pixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each latency")
    parser.add_argument(
        "--cpu-time", action="store_true", help="the process's own seconds, where others use the machine"
    )
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    asked = parser.parse_args()
    setting = measuring.setting(torch.device("cpu"))
    print(f"{measuring.in_words(setting)}\nonnxruntime {measuring.version_of('onnxruntime')}\n")
    print("| backbone | format | MB | largest difference | cosine | batch 1, ms | batch 32, ms |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = asked.backbone or [*random_backbones(Path(scratch), asked.image_size)]
        for number, folder in enumerate(folders):
            backbone = load(folder)
            place = Path(scratch) / f"formats-{number}"
            place.mkdir()
            for made in formats(backbone, place):
                row = measured(
                    backbone, made, asked.seconds, time.process_time if asked.cpu_time else time.perf_counter
                )
                rows.append(row)
                print(
                    f"| {row['backbone']} | {row['format']} | {row['bytes'] / 1e6:.1f} | {row['difference']:.1g} "
                    f"| {row['cosine']:.5f} | {row['ms'][0]:.1f} | {row['ms'][1]:.0f} |",
                    flush=True,
                )
    if asked.json is not None:
        asked.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def random_backbones(folder: Path, side: int) -> Iterator[Path]:
    """Timm folders of the two small networks."""
    statistics: dict[str, Any] = {"image_size": side, "mean": INAT_PLANTAE_MEAN, "std": INAT_PLANTAE_STD}
    config = BackboneConfig(name=VIT)
    vit = randomize(build(config, side))
    arguments = model_arguments(config, side)
    card = ModelCard(architecture=VIT, arguments=arguments, num_features=vit.num_features, **statistics)
    write_timm_folder(folder / VIT, vit.state_dict(), card)
    yield folder / VIT
    convnext = randomize(timm.create_model(CONVNEXT, num_classes=0))
    more = {"global_pool": "avg", "first_conv": "stem.0", "classifier": "head.fc"}
    card = ModelCard(architecture=CONVNEXT, arguments={}, num_features=convnext.num_features, **statistics, **more)
    write_timm_folder(folder / CONVNEXT, convnext.state_dict(), card)
    yield folder / CONVNEXT


def randomize(model: Any) -> Any:
    """Weights with which the signal neither dies nor grows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.mean() > 0.5 else 0.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
    return model.eval()


def formats(backbone: Backbone, folder: Path) -> Iterator[Format]:
    """Torch itself, then every format that the network has."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in backbone.model.state_dict().values())
    yield Format(name="torch", size=weights, features=by_torch(backbone.model))
    write_timm_folder(folder / "timm", backbone.model.state_dict(), backbone.card)
    again = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    size = (folder / "timm" / "model.safetensors").stat().st_size
    yield Format(name="timm", size=size, features=by_torch(again))
    if family_of(backbone.model) == "vit":
        file = folder / "dinov2.pth"
        torch.save(dinov2_state(backbone.model), file)
        heads: int = backbone.model.blocks[0].attn.num_heads  # type: ignore[index, union-attr]
        found = read_released(file, heads=heads)
        model = timm.create_model(found.card.architecture, num_classes=0, **found.card.arguments).eval()
        model.load_state_dict(found.weights)
        yield Format(name="dinov2", size=file.stat().st_size, features=by_torch(model))
    write_float(backbone, folder)
    side = backbone.card.image_size
    pictures = dead_leaves(CALIBRATION, width=4 * side // 3, height=side, seed=1)
    with contextlib.redirect_stdout(sys.stderr):  # what it says does not belong into the table
        write_int8(backbone, folder, np.stack([backbone.transform(picture).numpy() for picture in pictures]))
    for name, file_name in (("ONNX", FLOAT_FILE), ("ONNX int8", INT8_FILE)):
        file = folder / file_name
        yield Format(name=name, size=file.stat().st_size, features=by_onnxruntime(file))


def by_onnxruntime(file: Path) -> Features:
    """An ONNX file on as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["features"], {"images": images})[0])


def measured(backbone: Backbone, made: Format, seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """The row of a format."""
    difference, cosines = 0.0, []
    for images in sample_batches(backbone).values():
        expected, found = by_torch(backbone.model)(images.numpy()), made.features(images.numpy())
        difference = max(difference, float(np.abs(found - expected).max()))
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
        cosines += ((found * expected).sum(1) / lengths).tolist()
    side = backbone.card.image_size
    times = []
    for batch in BATCHES:
        images = np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)
        times.append(1e3 * latency(made.features, images, seconds, clock))
    return {
        "backbone": backbone.card.architecture,
        "format": made.name,
        "bytes": made.size,
        "difference": difference,
        "cosine": float(np.mean(cosines)),
        "ms": times,
    }


def latency(features: Features, images: NDArray[np.float32], seconds: float, clock: Callable[[], float]) -> float:
    """The median of a batch's seconds, after one to warm up."""
    contender, cpu = {"it": lambda: features(images)}, torch.device("cpu")
    once = measuring.in_turn(contender, rounds=1, device=cpu, warm_up=1, clock=clock)["it"][0]
    timed = measuring.in_turn(contender, rounds=max(3, round(seconds / once)), device=cpu, warm_up=0, clock=clock)
    return measuring.medians(timed)["it"]


if __name__ == "__main__":
    main()
