"""How pretraining, fine-tuning and distillation begin: what `auto` stands for, whose part of a batch, whose folder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from umbel.data.index import find_shards
from umbel.data.order import Slices
from umbel.machine import DeviceChoice, PrecisionChoice, choose_device, choose_precision
from umbel.rank_watch import RankWatch
from umbel.ranks import meet, new_start, rank_0_first
from umbel.run import refuse_overlap, refuse_within, say
from umbel.run_folder import RunFolder
from umbel.ssl.same_batch import other_batch

if TYPE_CHECKING:
    from umbel.ssl.distillation.config import DistillConfig
    from umbel.ssl.finetune_config import FinetuneConfig
    from umbel.ssl.pretrain_config import PretrainConfig

    Config = PretrainConfig | FinetuneConfig | DistillConfig


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run that this rank takes part in."""

    state: PartialState
    slices: Slices
    folder: RunFolder
    watch: RankWatch


def refuse_own_data(config: Config, sets: Sequence[str]) -> None:
    """Refuse an --out that would move what is read aside, or lie within a folder of photographs.

    Raises:
        UserError: always then.
    """
    for data in sets:
        if config.force:
            refuse_overlap(data, config.out)
        if Path(data).is_dir() and not find_shards(data):
            refuse_within(config.out, data)


def resolve_machine(config: Config, command: str) -> tuple[DeviceChoice, PrecisionChoice]:
    """What `auto` stands for as device and as precision, or stood for when the run was begun; both are said."""
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    begun = None if config.force else RunFolder(config.out).previous(command)
    asked = config.train.precision
    if asked == "auto" and begun is not None:
        asked = begun["train"]["precision"]
        say(f"precision {asked}: as {config.out} was begun.")
    else:
        precision = choose_precision(asked, device.value)
        asked = precision.value  # type: ignore[assignment]
        say(f"precision {precision.value}: {precision.reason}.")
    return device.value, asked  # type: ignore[return-value]


@contextlib.contextmanager
def opened(
    config: Config,
    command: str,
    *,
    ignore: Sequence[str],
    also: Callable[[RunFolder], str | None] = lambda run: None,
) -> Iterator[Opened]:
    """Meet the other ranks, open or continue the run folder, and watch the ranks for as long as the run lasts.

    Args:
        ignore: settings that may change when the run is continued.
        also: what is wrong with the folder besides, or None.

    Raises:
        UmbelError: not all ranks came, or the folder holds something else.
    """
    state = meet(cpu=config.device == "cpu")
    slices = Slices(
        micro_batch=config.train.batch,
        rank=state.process_index,
        world_size=state.num_processes,
        accumulation=config.train.accumulation,
    )
    opening = functools.partial(
        RunFolder.open,
        config.out,
        config,
        command,
        ignore=ignore,
        force=config.force,
        also=lambda run: other_batch(run, slices) or also(run),
    )
    folder = rank_0_first(state, opening)
    with RankWatch(
        folder.path,
        start=new_start(state.device),
        rank=state.process_index,
        world_size=state.num_processes,
        timeout=config.train.timeout,
    ) as watch:
        yield Opened(state=state, slices=slices, folder=folder, watch=watch)
