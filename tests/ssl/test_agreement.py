"""What ranks tell each other of a step: alone and between two processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from umbel.ssl.agreement import Agreement, Outcome

CPU = torch.device("cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_term_that_is_not_finite_makes_the_step_bad(value: float) -> None:
    agreement = Agreement(CPU)
    for place in range(3):
        terms = torch.ones(3)
        terms[place] = value
        assert agreement.add(place, terms, stopping=False, save_due=False, bad_photographs=0) == 1
        assert [o.bad for o in agreement.outcomes()] == [True]
    assert agreement.add(3, torch.ones(3), stopping=False, save_due=False, bad_photographs=0) == 0
    assert agreement.outcomes() == [Outcome(step=3, bad=False, stopping=False, save_due=False, bad_photographs=0)]


def test_each_outcome_comes_once_and_in_order() -> None:
    agreement = Agreement(CPU)
    agreement.lag = 2  # as on a GPU
    read = []
    for step in range(1, 6):
        agreement.add(step, torch.ones(1), stopping=step == 2, save_due=step == 3, bad_photographs=step)
        read.append([o.step for o in agreement.outcomes()])
    assert read == [[], [], [1], [2], [3]]
    rest = agreement.outcomes(all_of_them=True)
    assert [(o.step, o.stopping, o.save_due, o.bad_photographs) for o in rest] == [
        (4, False, False, 4),
        (5, False, False, 5),
    ]
    assert agreement.outcomes(all_of_them=True) == []


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    agreement = Agreement(CPU)
    terms = torch.tensor([1.0, math.nan if rank == 1 else 2.0])
    bad = [agreement.add(1, terms, stopping=rank == 0, save_due=False, bad_photographs=3 + rank)]
    bad.append(agreement.add(2, torch.ones(2), stopping=False, save_due=rank == 0, bad_photographs=3))
    told = [[o.step, o.bad, o.stopping, o.save_due, o.bad_photographs] for o in agreement.outcomes()]
    torch.save({"bad": torch.stack(bad).tolist(), "told": told}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_read_the_same(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, __file__]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    expected = {"bad": [1.0, 0.0], "told": [[1, True, True, False, 7], [2, False, False, True, 6]]}
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
