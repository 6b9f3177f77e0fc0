"""Who keeps a run from getting further: counted over looks, and said in one sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from umbel.rank_notes import Note
from umbel.rank_verdict import RankVerdict

TIMEOUT, SECONDS = 10.0, 1.0
GOES_ON = "; the same command continues from the last checkpoint"


def note(rank: int, host: str = "fern", **facts: Any) -> Note:
    given = {"system": "", "process": 1, "born": 0, "limit": TIMEOUT} | facts
    return Note(rank=rank, host=host, **given)


class Run:
    """Notes of all ranks, which move and give signs as a test says; the view is rank 0's."""

    def __init__(self, ranks: int = 2) -> None:
        self.notes = {rank: note(rank, host=f"host{rank // 2}") for rank in range(ranks)}
        self.view = RankVerdict(self.notes[0], world_size=ranks, timeout=TIMEOUT, seconds=SECONDS)
        self.left: set[int] = set()

    def at(self, rank: int, where: str, **facts: Any) -> None:
        old = self.notes[rank]
        facts = {"limit": TIMEOUT, "moves": old.moves + 1} | facts
        self.notes[rank] = dataclasses.replace(old, where=where, changes=old.changes + 1, **facts)

    def look(
        self, times: float = 1, *, silent: tuple[int, ...] = (), dead: tuple[int, ...] = (), answered: bool = True
    ) -> None:
        for _ in range(int(times)):
            for rank, old in self.notes.items():
                if rank not in silent:
                    self.notes[rank] = dataclasses.replace(old, beats=old.beats + 1)
            others = {rank: told for rank, told in self.notes.items() if rank != 0} if answered else None
            self.view.look(self.notes[0], others, left=self.left, dead=dead)

    def hang(self) -> str | None:
        found = self.view.hang()
        assert found is None or found.hung
        return found.sentence if found else None


def test_a_run_hangs_when_no_rank_has_moved_for_the_timeout_and_the_one_behind_is_named() -> None:
    run = Run()
    run.look()
    run.at(0, "step 3: the outcome")
    run.at(0, "step 3: the outcome")
    run.at(1, "step 3: waiting for data")
    run.look(TIMEOUT)
    assert run.hang() is None
    run.look()
    told = "no progress for 10 s (--train.timeout): rank 1 of 2 (host host0) stands at step 3: waiting for data"
    assert run.hang() == told + GOES_ON


def test_any_rank_that_moves_keeps_the_run_from_counting_as_hung() -> None:
    run = Run()
    for step in range(5):
        run.at(1, f"step {step}")
        run.look(TIMEOUT - 1)
        assert run.hang() is None
    run.look(2)
    assert run.hang() is not None


def test_all_that_stand_at_one_place_are_named() -> None:
    run = Run(ranks=4)
    for rank in range(4):
        run.at(rank, "step 1: forward and backward")
    run.at(0, "step 1: the outcome")
    run.look(TIMEOUT + 2)
    assert "ranks 1, 2, 3 of 4 (hosts host0, host1) stand at step 1: forward and backward;" in str(run.hang())


def test_a_rank_without_a_sign_of_life_is_named_whatever_the_others_do() -> None:
    run = Run(ranks=3)
    run.look()
    run.look(TIMEOUT - 1, silent=(2,))
    assert run.hang() is None
    run.look(2, silent=(2,))
    assert str(run.hang()).startswith(
        "no sign of life for 11 s (--train.timeout) from rank 2 of 3 (host host1): stopped"
    )


def test_a_silent_rank_is_no_hang_as_long_as_the_others_get_further() -> None:
    run = Run(ranks=3)
    for step in range(6):
        run.at(0, f"step {step}")
        run.at(1, f"step {step}")
        run.look(TIMEOUT / 2, silent=(2,))
        assert run.hang() is None


def test_a_rank_that_never_came_is_silent() -> None:
    run = Run()
    del run.notes[1]
    run.look(TIMEOUT + 1)
    assert str(run.hang()).startswith("no sign of life for 10 s (--train.timeout) from rank 1 of 2: ")


def test_a_pause_of_one_rank_gives_all_of_them_time() -> None:
    run = Run()
    run.at(0, "step 4: saving", limit=5 * TIMEOUT)
    run.at(1, "step 4: the checkpoint")
    run.notes[0] = dataclasses.replace(run.notes[0], moves=run.notes[1].moves)
    run.look(5 * TIMEOUT)
    assert run.hang() is None
    run.look()
    assert "rank 0 of 2 (host host0) stands at step 4: saving;" in str(run.hang())  # the other one waits for it


def test_a_pause_does_not_cover_silence() -> None:
    run = Run()
    run.look()
    run.at(1, "step 4: saving", limit=100 * TIMEOUT)
    run.look()
    run.look(TIMEOUT, silent=(1,))
    assert "no sign of life" in str(run.hang())


def test_who_ended_well_is_neither_silent_nor_behind() -> None:
    run = Run(ranks=3)
    run.at(0, "step 9")
    run.look()
    run.left = {1}
    del run.notes[1]
    run.look(TIMEOUT + 1)
    assert "rank 2 of 3 (host host1) stands at starting" in str(run.hang())


def test_who_cannot_exchange_notes_accuses_nobody_of_silence_but_names_the_folder() -> None:
    run = Run()
    run.at(0, "step 2: the log")
    run.look()
    run.look(TIMEOUT - 1, answered=False)
    assert run.hang() is None
    run.look(answered=False)
    place = "the run folder cannot be written, and rank 0 of 2 (host host0) stands at step 2: the log"
    assert run.hang() == f"no progress for 10 s (--train.timeout): {place}{GOES_ON}"
    run.at(0, "step 3")
    run.look(answered=False)
    assert run.hang() is None  # training goes on without
    run.look()
    run.look(TIMEOUT - 1, answered=False)
    assert run.hang() is None
    run.look(answered=False)
    assert run.hang() is not None


def test_one_alone_is_this_process() -> None:
    alone = RankVerdict(note(0), world_size=1, timeout=TIMEOUT, seconds=SECONDS)
    for beat in range(11):
        assert alone.hang() is None or beat == 0
        alone.look(note(0, beats=beat, where="step 7"), {}, left=(), dead=())
    assert alone.hang() == (
        f"no progress for 10 s (--train.timeout): this process stands at step 7{GOES_ON}",
        True,
        None,
    )


def test_what_another_rank_ended_of_is_repeated_as_it_is() -> None:
    run = Run(ranks=3)
    run.at(2, "step 1", ended="rank 2 of 3 (host fern) failed first: no photographs", hung=False)
    run.look()
    found = run.view.ended()
    assert found is not None
    assert (found.sentence, found.hung) == ("rank 2 of 3 (host fern) failed first: no photographs", False)
    assert found.by == run.notes[2]


def test_the_own_end_is_not_anothers() -> None:
    run = Run()
    run.at(0, "step 1", ended="rank 0 of 2 failed first: x")
    run.look()
    assert run.view.ended() is None


@pytest.mark.parametrize("left", [False, True])
def test_a_dead_process_without_a_word_is_gone_unless_it_had_left(left: bool) -> None:
    run = Run()
    run.at(0, "step 12: the outcome")
    run.left = {1} if left else set()
    run.look(dead=(1,))
    found = run.view.ended()
    if left:
        assert found is None
    else:
        assert found is not None
        told = "rank 1 of 2 (host host0) is gone at step 12: the outcome (killed, perhaps for want of memory): "
        assert found.sentence == told + GOES_ON.removeprefix("; ")


def test_the_last_word_of_a_dead_process_counts() -> None:
    run = Run()
    run.at(1, "step 1", ended="rank 1 of 2 failed first: x")
    run.look(dead=(1,))
    found = run.view.ended()
    assert found is not None
    assert found.sentence == "rank 1 of 2 failed first: x"


@pytest.mark.parametrize(("looks", "silent"), [(3, []), (4, [1]), (9, [1])])
def test_silence_is_counted_in_looks(looks: int, silent: list[int]) -> None:
    run = Run(ranks=3)
    run.look()
    run.look(looks, silent=(1,))
    assert run.view.silent(4 * SECONDS) == silent
    run.look()
    assert run.view.silent(SECONDS) == []
