"""A run keeps its global batch: what is refused, which numbers are offered, and when the coding rate is spoken of."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from umbel.data.order import Slices
from umbel.run_folder import RunFolder
from umbel.ssl.same_batch import batch_facts, other_batch


def slices(batch: int, ranks: int, accumulation: int = 1) -> Slices:
    return Slices(micro_batch=batch, world_size=ranks, accumulation=accumulation)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_new_run_may_have_any(ranks: int, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert other_batch(run, slices(8, ranks)) is None
    run.note_start(0, data="abc")  # before the batch was noted
    assert other_batch(run, slices(8, ranks)) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("begun", "now", "fits"),
    [
        # As large a part as the coding rate saw before.
        ((128, 8, 1), (128, 4, 1), "4 ranks can go on with --train.batch 256 --train.accumulation 1"),
        ((128, 1, 8), (128, 2, 8), "2 ranks can go on with --train.batch 64 --train.accumulation 8"),
        ((128, 2, 2), (128, 1, 2), "1 rank can go on with --train.batch 256 --train.accumulation 2"),
        # The nearest to it.
        ((128, 1, 3), (128, 3, 3), "3 ranks can go on with --train.batch 32 --train.accumulation 4"),
        ((96, 1, 1), (96, 64, 1), "64 ranks cannot share it, a number that divides 96 can"),
    ],
)
def test_another_global_batch_is_refused_with_the_numbers_that_fit(
    begun: tuple[int, int, int], now: tuple[int, int, int], fits: str, run: RunFolder
) -> None:
    run.note_start(0, data="abc", **batch_facts(slices(*begun)))
    found = other_batch(run, slices(*now))
    g, product = begun[0] * begun[1] * begun[2], now[0] * now[1] * now[2]
    was = f"was begun with a global batch of {g} (micro-batch x ranks x accumulation)"
    assert found == f"{was} and not {now[0]} x {now[1]} x {now[2]} = {product}; {fits}"


@dataclass(frozen=True)
class Case:
    """A start, and what is said of the coding rate."""

    batch: int
    ranks: int
    accumulation: int
    said: str


@pytest.mark.parametrize(
    "case",
    [
        Case(64, 2, 1, ""),
        Case(128, 1, 1, ""),
        Case(32, 2, 2, "the coding rate saw m = 128 (micro-batch x ranks) so far and sees 64 from here on"),
    ],
)
def test_the_same_global_batch_goes_on(case: Case, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.note_start(0, data="abc", **batch_facts(slices(8, 2, 8)))
    run.note_start(4, data="abc", **batch_facts(slices(64, 2)))  # the last start counts
    assert other_batch(run, slices(case.batch, case.ranks, case.accumulation)) is None
    out = capsys.readouterr().out
    assert out.startswith(case.said)
    assert bool(out) is bool(case.said)
