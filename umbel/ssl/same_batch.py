"""A run keeps its global batch G = micro-batch x ranks x accumulation, however many ranks continue it.

Order, views, masks and schedules hang on G alone. The coding rate does not: it sees m = micro-batch x ranks.
"""

from __future__ import annotations

from typing import Any

from umbel.data.order import Slices
from umbel.run import say
from umbel.run_folder import RunFolder


def other_batch(run: RunFolder, slices: Slices) -> str | None:
    """What is wrong with another global batch than the run was begun with, and the numbers that fit; None if it is not.

    Says where the coding rate will see another part of it.

    Raises:
        UserError: the run's record cannot be read.
    """
    record = run.record()
    begun, asked = record["lasting"].get("global_batch"), slices.global_batch
    if begun is None:
        return None
    last = record["starts"][-1]
    m, ranks = last["batch"] * last["ranks"], slices.world_size
    if begun != asked:
        was = f"was begun with a global batch of {begun} (micro-batch x ranks x accumulation)"
        product = f"{slices.micro_batch} x {ranks} x {slices.accumulation} = {asked}"
        return f"{was} and not {product}; {_fitting(begun, ranks, m)}"
    if m != slices.micro_batch * ranks:
        say(
            f"the coding rate saw m = {m} (micro-batch x ranks) so far and sees {slices.micro_batch * ranks} from here "
            "on: the global batch is the same, the loss not quite."
        )
    return None


def batch_facts(slices: Slices) -> dict[str, Any]:
    """What `other_batch` wants to know of this start, for `RunFolder.note_start`."""
    now = {"batch": slices.micro_batch, "ranks": slices.world_size, "accumulation": slices.accumulation}
    return {"global_batch": slices.global_batch, "now": now}


def _fitting(begun: int, ranks: int, m: int) -> str:
    """Micro-batch and accumulation that keep the global batch, and m where that is possible."""
    if begun % ranks:
        return f"{ranks} ranks cannot share it, a number that divides {begun} can"
    here = begun // ranks
    fits = [batch for batch in range(1, here + 1) if here % batch == 0]
    batch = min(fits, key=lambda batch: abs(batch * ranks - m))
    named = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return f"{named} can go on with --train.batch {batch} --train.accumulation {here // batch}"
