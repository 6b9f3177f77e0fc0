"""Health over two ranks: the coding rate is that of all rows, the other measures are each rank's own.

The ranks are processes that run this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from umbel.ssl.health import agreement, coding_rate_share, effective_rank, health, mean_cosine

RANKS, EPS, WIDTH = 2, 0.05, 8


def inputs(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, student and teacher of a rank: 6 photographs are fewer than the width, 12 are more."""
    generator = torch.Generator().manual_seed(rank)
    tokens, student, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((12, 9), (3, 6, WIDTH), (2, 6, WIDTH))
    )
    return tokens, F.normalize(student, dim=-1), F.normalize(teacher + 0.3, dim=-1)


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.save(health(*inputs(rank), eps=EPS), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_coding_rate_is_that_of_all_rows_and_the_rest_is_each_ranks_own(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in processes:
            text, _ = process.communicate(timeout=150)
            assert process.returncode == 0, text
    finally:
        for process in processes:
            process.kill()
    whole = float(coding_rate_share(torch.cat([inputs(rank)[2] for rank in range(RANKS)], dim=1), eps=EPS))
    for rank in range(RANKS):
        tokens, student, teacher = inputs(rank)
        own = [float(value) for value in (effective_rank(tokens), mean_cosine(teacher), agreement(student, teacher))]
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist()
        assert found == pytest.approx([*own, whole], rel=1e-12)
        # Each rank alone would have another share.
        assert found[3] != pytest.approx(float(coding_rate_share(teacher, eps=EPS)), rel=1e-3)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
