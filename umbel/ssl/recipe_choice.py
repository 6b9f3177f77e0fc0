"""Which recipe fits: by the number of photographs and the memory, with the reason and an estimate of the time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from umbel.config import read_recipe
from umbel.data.folder import read_folder
from umbel.data.index import PRETRAINING_SPLITS, find_shards, open_shards
from umbel.data.reader import ReaderConfig
from umbel.machine import GIB, choose_device, device_memory
from umbel.run import UserError, duration, say

if TYPE_CHECKING:
    from umbel.ssl.pretrain_config import PretrainConfig

FEW_PHOTOGRAPHS = 50_000
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
    if device == "cpu":
        name, why = "small-cpu", f"no GPU is used, so a small ViT ({count:,} photographs)"
    elif count >= 500_000 and memory >= 40:
        name, why = "vitb16", f"{count:,} photographs feed a ViT-B, and {memory:.0f} GiB hold it"
    else:
        reason = f"{count:,} photographs" if count < 500_000 else f"{memory:.0f} GiB of GPU memory"
        name, why = "vits16", f"{reason}: a ViT-S"
    say(f"recipe {name}: {why}.")
    return name


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
