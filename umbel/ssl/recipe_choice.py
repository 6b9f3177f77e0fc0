"""Which recipe fits: by the number of photographs and the memory, with the reason and an estimate of the time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from umbel.backbones.loading import find_folder
from umbel.config import read_recipe
from umbel.data.folder import read_folder
from umbel.data.index import PRETRAINING_SPLITS, find_shards, open_shards
from umbel.data.reader import ReaderConfig
from umbel.machine import GIB, choose_device, device_memory
from umbel.run import UserError, duration, say

if TYPE_CHECKING:
    from umbel.ssl.pretrain_config import PretrainConfig

FEW_PHOTOGRAPHS = 50_000
MANY_PHOTOGRAPHS = 500_000
# GiB of GPU memory: what benchmarks/memory.py counts of a recipe, and 2 to 3 for the libraries.
NEEDED = {"vitb16": 40, "vits16": 23}
# In config.json, in timm's names, in the names of the authors' files (dinov2_vitb14_pretrain.pth).
PATCH_PATTERNS = tuple(map(re.compile, (r'"patch_size": (\d+)', r"patch(\d+)", r"vit[a-z](\d+)")))
# Share of the matrix-product rate that a whole training step reaches: measured on two CPU cores; for a GPU the middle
# of what public DINO code is reported to reach, not measured.
STEP_EFFICIENCY = {"cpu": 0.3, "cuda": 0.25}


def count_all(config: PretrainConfig) -> int:
    """Photographs that DATA and what is mixed in hold for pretraining; raises as `count_photographs`."""
    return sum(count_photographs(data, config.reader) for data in (config.data, *config.mix.data))


def count_photographs(data: str, reader: ReaderConfig | None = None) -> int:
    """Photographs that DATA holds for pretraining.

    Args:
        reader: how remote shards are read.

    Raises:
        UserError: DATA is neither photographs nor shards.
    """
    if find_shards(data):
        reader = reader or ReaderConfig()
        shards = open_shards(data, cache_gib=reader.cache_gib, allow_pipe=reader.allow_pipe)
        return len(shards.select(PRETRAINING_SPLITS))
    splits = read_folder(Path(data), "train").splits
    count = sum(len(splits.get(split, ())) for split in PRETRAINING_SPLITS)
    if count == 0:
        raise UserError(f"{data} has photographs of {', '.join(splits)} only; pretraining reads train and unlabeled.")
    return count


def choose_recipe(config: PretrainConfig) -> str:
    """The recipe's name; prints the choice and its reason where it was left to us."""
    if config.recipe != "auto":
        return config.recipe
    begun = config.out / "config.yaml"
    if begun.is_file() and not config.force:
        name = str(read_recipe(str(begun), "pretrain").get("recipe", "auto"))
        say(f"recipe {name}: {config.out} was begun with it.")
        return name
    count = count_all(config)
    device = choose_device(config.device).value
    memory = device_memory(device) / GIB
    if config.init is not None:
        patch = patch_of(config.init)
        name = "dinov2-continue" if patch == 14 else "dinov3-continue"
        why = f"weights to start from want a low learning rate, and patches of {patch} px divide its views"
    elif device == "cpu":
        name, why = "small-cpu", f"no GPU is used, so a small ViT ({count:,} photographs)"
    elif count >= MANY_PHOTOGRAPHS and memory >= NEEDED["vitb16"]:
        name, why = "vitb16", f"{count:,} photographs feed a ViT-B, and {memory:.0f} GiB hold it"
    else:
        name = "vits16" if memory >= NEEDED["vits16"] else "vits16-8gb"
        reason = f"{count:,} photographs" if count < MANY_PHOTOGRAPHS else f"{memory:.0f} GiB of GPU memory"
        why = f"{reason}: a ViT-S"
        if name == "vits16-8gb":
            why += f", its activations computed again for {memory:.0f} GiB to hold it"
        elif count >= MANY_PHOTOGRAPHS:
            why += " (vitb16-24gb is a ViT-B that they hold, at four times the time for an epoch)"
    say(f"recipe {name}: {why}.")
    return name


def patch_of(init: str) -> int:
    """Side in pixels of the patches of a backbone to start from, as its name or its config.json tells; else 16.

    Raises:
        UserError: a folder that holds no backbone.
    """
    path = Path(init)
    told = (find_folder(path) / "config.json").read_text(errors="replace") if path.is_dir() else path.name
    for pattern in PATCH_PATTERNS:
        if found := pattern.search(told):
            return int(found[1])
    return 16


def say_estimate(photographs: float, operations: float, rate: float, *, device: str) -> None:
    """Print how long the given number of photographs will take, and what the estimate rests on.

    Args:
        operations: floating-point operations of a training step for one photograph.
        rate: operations a second of the device in a matrix product.
    """
    seconds = photographs * operations / (rate * STEP_EFFICIENCY[device])
    say(
        f"about {duration(seconds)} to go: {photographs:,.0f} photographs at {operations / 1e9:.2f} GFLOP each; "
        f"this {device} multiplies matrices at {rate / 1e9:,.0f} GFLOP/s, of which a step reaches some "
        f"{STEP_EFFICIENCY[device]:.0%} (the progress bar will know better)."
    )
