"""How fast 2 x 224 + 10 x 96 views are made of decoded photographs, beside the usual ways, all taking turns in one run.

python benchmarks/augment.py [PHOTOGRAPHS] [--threads 1] [--steps] [--json FILE]

Every contender has the same photographs, sizes, areas, probabilities and ranges (the plant policy), and ends with
normalized tensors. Without PHOTOGRAPHS they are noise on a coarse pattern, 375 x 500 px.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from data import find_sources
from gpu_check_data import photographs_like
from step import TrainingStep, random_views
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views, ViewsConfig
from umbel.config import from_values, read_recipe
from umbel.data.batch import to_canvas
from umbel.data.decode import decode
from umbel.machine import choose_device, choose_precision
from umbel.ssl.pretrain_config import PretrainConfig

FAST, PLAIN, CROPS = "Umbel", "plain Kornia, the same parameters", "crops alone"
MODULES, TENSORS, PILLOW = "Kornia's modules and draws", "torchvision v2 on tensors", "torchvision v2 on Pillow images"
RECIPES = {"ViT-S": "vits16", "ViT-B": "vitb16"}
STEP_BATCH = {"cpu": 2, "cuda": 64}
Contender = Callable[[], object]


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="?", help="a folder of JPEG files or of shards")
    parser.add_argument("--count", type=int, default=32, help="photographs of a batch")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of this process")
    parser.add_argument("--rounds", type=int, default=7, help="batches of every contender, in turn; medians count")
    parser.add_argument("--steps", action="store_true", help="also time training steps: the share that views take")
    parser.add_argument("--tiny", action="store_true", help="small views, to try the script")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(choose_device(options.device).value)
    setting = measuring.setting(device) | {"photographs": options.photographs or "noise, 375 x 500 px"}
    print(f"{measuring.in_words(setting)}\nphotographs: {setting['photographs']}, {options.count} a batch")
    config = ViewsConfig(global_size=32, local_size=16, local_views=2) if options.tiny else ViewsConfig()
    canvas, sizes = photographs(options.photographs, options.count)
    contenders = every_contender(config, canvas.to(device), sizes)
    seconds = measuring.in_turn(contenders, rounds=options.rounds, device=device, warm_up=1)
    steps = {name: step_seconds(name, device, options.tiny) for name in RECIPES} if options.steps else {}
    rows = []
    for name in contenders:
        taken = statistics.median(seconds[name]) / options.count
        row = {"views": name, "images/s": 1 / taken, "ms an image": 1e3 * taken}
        row |= {"times torchvision v2": measuring.ratio(seconds, TENSORS, name)} if TENSORS in seconds else {}
        rows.append(row | {f"of a {model}'s step": taken / step for model, step in steps.items()})
        print(", ".join(f"{key} {value:.3g}" if key != "views" else f"{value:34s}" for key, value in rows[-1].items()))
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def photographs(folder: str | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 3, H, W) uint8 canvases and their (count, 2) true sizes."""
    if folder is None:
        return to_canvas(list(photographs_like(count, 375, 500)))
    images = [source if isinstance(source, bytes) else source.read_bytes() for source in find_sources([Path(folder)])]
    return to_canvas([decode(images[n % len(images)], canvas=512) for n in range(count)])


def every_contender(config: ViewsConfig, canvas: torch.Tensor, sizes: torch.Tensor) -> dict[str, Contender]:
    """By name: each makes all views of the batch once."""
    on_cpu = canvas.device.type == "cpu"
    made = on_device(config, canvas, sizes)
    contenders = {FAST: made("plant"), PLAIN: made("plant", plain=True), CROPS: made("none")}
    contenders[MODULES] = kornia_modules(config, canvas)
    if on_cpu:
        images = [image[:, :h, :w] for image, (h, w) in zip(canvas, sizes.tolist(), strict=True)]
        contenders[TENSORS] = torchvision_views(config, images)
        contenders[PILLOW] = torchvision_views(config, [to_pil_image(image) for image in images])
    return contenders


def on_device(
    config: ViewsConfig, canvas: torch.Tensor, sizes: torch.Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Callable[..., Contender]:
    """(policy, plain=False) -> a contender that makes Umbel's views of whole canvases, other ones each time."""
    sizes = torch.tensor([canvas.shape[2:]] * len(canvas)) if sizes is None else sizes
    position = np.arange(len(canvas))

    def maker(policy: str, plain: bool = False) -> Contender:
        views = Views(
            dataclasses.replace(config, policy=policy),
            seed=0,
            mean=INAT_PLANTAE_MEAN,
            std=INAT_PLANTAE_STD,
            device=canvas.device,
            dtype=dtype,
            compiled=canvas.is_cuda,
            plain=plain,
        )
        epochs = iter(range(10**9))
        return lambda: views(canvas, sizes, np.full(len(canvas), next(epochs)), position)

    return maker


def kornia_modules(config: ViewsConfig, canvas: torch.Tensor) -> Contender:
    """The plant policy as Kornia's documentation would have it: its own modules and draws, on floats."""
    import kornia.augmentation as K

    def modules(side: int, area: tuple[float, float]) -> K.AugmentationSequential:
        return K.AugmentationSequential(
            K.RandomResizedCrop((side, side), scale=area, ratio=config.aspect, resample="bicubic"),
            K.RandomHorizontalFlip(p=config.flip),
            K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            K.RandomPosterize((3.0, 5.0), p=0.5),
            K.RandomAffine(10.0, translate=(0.1, 0.1), resample="nearest", p=0.3),
            K.Normalize(torch.tensor(INAT_PLANTAE_MEAN), torch.tensor(INAT_PLANTAE_STD)),
        ).to(canvas.device)

    global_, local = modules(config.global_size, config.global_area), modules(config.local_size, config.local_area)

    def run() -> None:
        with torch.no_grad():
            images = canvas.float().div_(255)
            global_(images.repeat(2, 1, 1, 1))
            for _ in range(config.local_views):  # all at once would hold the photographs that many times
                local(images)

    return run


def torchvision_views(config: ViewsConfig, images: list[Any]) -> Contender:
    """The plant policy by torchvision, image by image, on uint8 tensors or Pillow images."""
    to_tensor = [] if isinstance(images[0], torch.Tensor) else [v2.PILToTensor()]

    def transforms(side: int, area: tuple[float, float]) -> v2.Compose:
        return v2.Compose([
            v2.RandomResizedCrop(side, area, config.aspect, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomChoice([v2.RandomPosterize(bits, p=0.5) for bits in (3, 4, 5)]),
            v2.RandomApply([v2.RandomAffine(10, translate=(0.1, 0.1))], p=0.3),
            *to_tensor,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(INAT_PLANTAE_MEAN, INAT_PLANTAE_STD),
        ])  # fmt: skip

    views = [transforms(config.global_size, config.global_area)] * 2
    views += [transforms(config.local_size, config.local_area)] * config.local_views

    def run() -> None:
        for view in views:
            torch.stack([view(image) for image in images])

    return run


def step_seconds(model: str, device: torch.device, tiny: bool) -> float:
    """Seconds of a training step for each photograph, data and views left out."""
    recipe = RECIPES[model]
    config = from_values(PretrainConfig(data="", out=Path()), read_recipe(recipe, "pretrain"), recipe)
    train = dataclasses.replace(config.train, batch=STEP_BATCH[device.type])
    config = dataclasses.replace(config, train=train, device=device.type)
    precision = choose_precision("auto", device.type).value
    step = TrainingStep(config, device=device, precision=precision, compile_blocks=device.type == "cuda")
    seen = random_views(config, step.patch, device)
    rounds = 1 if tiny else 3 if device.type == "cpu" else 15
    seconds = measuring.in_turn({"step": lambda: step(seen)}, rounds=rounds, device=device, warm_up=1)
    return statistics.median(seconds["step"]) / config.train.batch


if __name__ == "__main__":
    main()
