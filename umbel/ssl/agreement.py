"""What all ranks must know of a step, by one small reduction that nobody waits for.

On a GPU the host reads a step's outcome two steps later, when it lies in its memory already: all ranks read the same
outcome at the same place of the loop, and the host runs at most two steps ahead.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from umbel.coding_rate import world_size

LAG = {"cpu": 0, "cuda": 2}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A step, as all ranks together saw it."""

    step: int
    """Steps completed with it."""
    bad: bool
    """Something was not finite on some rank: the step changed nothing."""
    stopping: bool
    """Some rank was told to stop."""
    save_due: bool
    """Rank 0 wants to save."""
    bad_photographs: int
    """Found by all ranks so far."""


class Agreement:
    """Sums a step's flags over the ranks and hands the sums to the host when they are there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.lag = device, LAG[device.type]
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, terms: Tensor, *, stopping: bool, save_due: bool, bad_photographs: int) -> Tensor:
        """Send a step's flags around.

        Args:
            step: steps completed with this one.
            terms: (n,) losses and gradient norms on the device.

        Returns:
            0-d float32 on the device: 1 where a term of some rank is not finite, else 0.
        """
        told = torch.tensor([0.0, stopping, save_due, bad_photographs], pin_memory=self.device.type == "cuda")
        flags = told.to(self.device, non_blocking=True)
        flags[0] = (~terms.isfinite().all()).float()
        if world_size() > 1:
            torch.distributed.all_reduce(flags)
        event = None
        if self.device.type == "cuda":
            read = torch.empty_like(flags, device="cpu", pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            read = flags
        self._waiting.append((step, read, event))
        return flags[0].clamp(max=1)

    def outcomes(self, *, all_of_them: bool = False) -> list[Outcome]:
        """The outcomes that are old enough to be read without waiting, or all of them; each step comes once."""
        found = []
        while len(self._waiting) > (0 if all_of_them else self.lag):
            step, read, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            bad, stopping, due, photographs = read.tolist()
            found.append(
                Outcome(
                    step=step, bad=bad > 0, stopping=stopping > 0, save_due=due > 0, bad_photographs=int(photographs)
                )
            )
        return found
