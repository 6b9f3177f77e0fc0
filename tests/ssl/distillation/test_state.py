"""Running statistics and the queue, on one rank and on two: state that a continued run must have again."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor

from umbel.ssl.distillation.dist import dist_loss
from umbel.ssl.distillation.feature_queue import FeatureQueue, queue_length
from umbel.ssl.distillation.grid import resize_grid
from umbel.ssl.distillation.running_statistics import MOMENTUM, RunningStatistics

RANKS, ROWS, WIDTH, STEPS, LENGTH = 2, 4, 3, 5, 11
CHECKOUT = Path(__file__).parents[3]


def batches(steps: int = STEPS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale, place = torch.tensor([0.1, 1.0, 50.0]), torch.tensor([100.0, 0.0, -3.0])
    drawn = torch.randn(steps, RANKS * ROWS, WIDTH, dtype=torch.float64, generator=generator)
    return list(drawn * scale.double() + place.double())


def work(rows: slice) -> dict[str, Tensor]:
    """What a rank holds after all batches, of which it sees some rows."""
    statistics, queue = RunningStatistics(WIDTH).double(), FeatureQueue(LENGTH, WIDTH).double()
    for batch in batches():
        statistics.update(batch[rows])
        queue.add(batch[rows])
    student = batches()[0][rows].clone().requires_grad_()
    loss = dist_loss(student, batches()[1][rows] / 50, temperature=2.0)
    loss.backward()
    assert student.grad is not None
    return {**statistics.state_dict(), "queue": queue.features, "taken": queue.taken} | {
        "dist": loss.detach(),
        "gradient": student.grad,
    }


def test_statistics_are_those_of_all_rows_so_far() -> None:
    statistics = RunningStatistics(WIDTH).double()
    for batch in batches():
        statistics.update(batch)
    rows = torch.cat(batches())
    torch.testing.assert_close(statistics.mean, rows.mean(0))
    torch.testing.assert_close(statistics.variance, rows.var(0, unbiased=False))
    standardized = statistics(rows)
    torch.testing.assert_close(standardized.mean(0), torch.zeros(WIDTH, dtype=torch.float64), atol=1e-6, rtol=0)
    assert ((standardized.std(0, unbiased=False) - 1).abs() < 1e-3).all()


def test_after_a_hundred_batches_the_average_moves() -> None:
    statistics = RunningStatistics(1).double()
    values = torch.linspace(0, 1, 150, dtype=torch.float64)
    mean, weights = torch.zeros((), dtype=torch.float64), torch.zeros(150, dtype=torch.float64)
    for step, value in enumerate(values):
        statistics.update(value.view(1, 1))
        share = max(1 / (step + 1), 1 - MOMENTUM)
        mean = mean + share * (value - mean)
        weights *= 1 - share
        weights[step] = share
    torch.testing.assert_close(statistics.mean[0], mean)
    torch.testing.assert_close(statistics.variance[0], (weights * (values - mean) ** 2).sum())


def test_patches_count_as_rows() -> None:
    one, other = RunningStatistics(WIDTH).double(), RunningStatistics(WIDTH).double()
    one.update(torch.stack(batches()))
    other.update(torch.cat(batches()))
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.variance, other.variance)


def test_a_batch_that_is_not_finite_leaves_statistics_and_queue() -> None:
    statistics, queue = RunningStatistics(WIDTH).double(), FeatureQueue(LENGTH, WIDTH).double()
    first, second = batches(2)
    statistics.update(first)
    queue.add(first)
    before = {name: tensor.clone() for name, tensor in statistics.state_dict().items()}
    second[1, 2] = torch.nan
    statistics.update(second)
    queue.add(second)
    for name, tensor in statistics.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert queue.features.isfinite().all()


def test_the_queue_holds_the_last_features() -> None:
    queue = FeatureQueue(LENGTH, WIDTH).double()
    assert not queue.filled.any()
    queue.add(batches()[0])
    assert queue.filled.tolist() == [place < 8 for place in range(LENGTH)]
    for batch in batches()[1:]:
        queue.add(batch)
    assert queue.filled.all()
    rows = torch.cat(batches())
    expected = torch.stack([rows[max(n for n in range(len(rows)) if n % LENGTH == place)] for place in range(LENGTH)])
    assert torch.equal(queue.features, expected)
    # A batch that is longer than the queue leaves its end.
    short = FeatureQueue(5, WIDTH).double()
    short.add(rows)
    assert sorted(short.features[:, 0].tolist()) == sorted(rows[-5:, 0].tolist())
    short.add(rows[:1])
    assert sorted(short.features[:, 0].tolist()) == sorted([*rows[-4:, 0].tolist(), float(rows[0, 0])])


def test_length_of_the_queue() -> None:
    assert [queue_length(n) for n in (1, 9, 16_384, 1_000_000)] == [1, 4, 8192, 8192]
    assert queue_length(1000, 100) == 100


def test_a_grid_that_grows_and_one_that_shrinks() -> None:
    rows = torch.arange(2.0, dtype=torch.float64)
    grid = (10 * rows[:, None] + rows)[None, :, :, None].repeat(1, 1, 1, 2) * torch.tensor([1.0, -3.0]).double()
    grown = resize_grid(grid, (4, 4))
    assert grown.shape == (1, 4, 4, 2)
    # Places of the large grid at -0.25, 0.25, 0.75 and 1.25 of the small one, whose border goes on outside.
    at = torch.tensor([0, 0.25, 0.75, 1]).double()
    torch.testing.assert_close(grown[0, :, :, 0], 10 * at[:, None] + at)
    torch.testing.assert_close(grown[0, :, :, 1], -3 * grown[0, :, :, 0])
    noise = torch.randn(1, 8, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # Every place of the large one counts.
    shrunk = resize_grid(noise.requires_grad_(), (2, 2))
    shrunk.sum().backward()
    assert noise.grad is not None
    assert (noise.grad > 0).all()
    assert resize_grid(grid, (2, 2)) is grid


def test_two_ranks_hold_what_one_would(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(RANKS)
    ]
    assert [rank.wait(100) for rank in ranks] == [0] * RANKS
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    one = work(slice(None))
    # Ranks sum their gradients: averaged over ranks, as data-parallel training does, they are one rank's.
    gradient = torch.cat([rank.pop("gradient") for rank in found]) / RANKS
    torch.testing.assert_close(gradient, one.pop("gradient"))
    # A rank tells the loss of its own photographs.
    torch.testing.assert_close(sum(rank.pop("dist") for rank in found) / RANKS, one.pop("dist"))
    for name, expected in one.items():
        for rank in found:
            torch.testing.assert_close(rank[name], expected, msg=name)


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.save(work(slice(rank * ROWS, (rank + 1) * ROWS)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
