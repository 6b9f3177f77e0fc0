"""The first steps of a run of many processes, before they watch each other: they meet, and rank 0 makes the folder."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState

from umbel.run import EXIT_BUG, EXIT_DONE, TrainingError, UmbelError, duration

MEETING = timedelta(minutes=10)
"""In which all ranks must have come, and rank 0 opened the run folder."""
Done = TypeVar("Done")


class FailedOnRank0Error(UmbelError):
    """Rank 0 could not prepare the run and says why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("rank 0 failed first, and says why.", everywhere=True)
        self.exit_code = exit_code


def meet(*, cpu: bool) -> PartialState:
    """Join the other ranks, if a launcher started more than this one.

    Raises:
        TrainingError: not all of them came.
    """
    try:
        return PartialState(cpu=cpu, timeout=MEETING)
    except torch.distributed.DistError as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"not all ranks came within {duration(MEETING.total_seconds())} ({first}): see what the others say, "
            "and whether MASTER_ADDR can be reached from each machine."
        ) from error


def rank_0_first(state: PartialState, do: Callable[[], Done]) -> Done:
    """Do what must be done once on rank 0, then on the others, which find it done: a collective.

    Raises:
        UmbelError: it failed on rank 0, which raises what `do` raised; the others end with the same exit code.
    """
    if not state.is_main_process:
        code = from_rank_0(EXIT_DONE, state.device)
        if code != EXIT_DONE:
            raise FailedOnRank0Error(code)
        return do()
    code = EXIT_BUG
    try:
        done = do()
        code = EXIT_DONE
    except UmbelError as error:
        code = error.exit_code
        raise
    finally:
        from_rank_0(code, state.device)
    return done


def new_start(device: torch.device) -> str:
    """A name for this start of a run that no other one has, agreed on by all ranks: a collective."""
    return f"{from_rank_0(secrets.randbits(62), device):016x}"


def from_rank_0(number: int, device: torch.device) -> int:
    """What rank 0 gives, on every rank: a collective.

    Raises:
        TrainingError: a rank is gone.
    """
    value = torch.tensor(number, device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        try:
            torch.distributed.broadcast(value, 0)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise TrainingError(f"a rank is gone before the training began, and may say why ({first}).") from error
    return int(value)
