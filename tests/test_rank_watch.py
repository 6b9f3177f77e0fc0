"""Ranks that fail, die, hang or are stopped, as real processes: all end, and tell the first cause.

They are forked from the test's own process, where torch is imported already.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from umbel import rank_notes
from umbel.rank_watch import RankWatch
from umbel.run import Stopped, TrainingError, UmbelError, UserError

TIMEOUT = 2.0  # a look is a fifth of it
FOREVER = 300.0
Body = Callable[[RankWatch], object]


class Ranks:
    """Processes of a run; each runs a function inside its watch, and ends as the command line would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[int, BaseProcess] = {}
        self.lingering: dict[int, float] = {}  # seconds that a rank's process takes to end

    def start(
        self, *bodies: Body, timeout: float = TIMEOUT, start: str = "now", before: Callable[[int], object] = lambda _: 0
    ) -> None:
        context = multiprocessing.get_context("fork")
        for rank, body in enumerate(bodies):
            arguments = (rank, len(bodies), body, timeout, start, before)
            self.processes[rank] = context.Process(target=self._run, args=arguments)
            self.processes[rank].start()

    def _run(
        self, rank: int, world_size: int, body: Body, timeout: float, start: str, before: Callable[[int], object]
    ) -> None:
        sys.stderr = (self.folder / f"said-{rank}").open("w")
        os.dup2(sys.stderr.fileno(), 2)
        code = 0
        try:
            before(rank)
            with RankWatch(self.folder, start=start, rank=rank, world_size=world_size, timeout=timeout) as watch:
                (self.folder / f"began-{rank}").touch()
                body(watch)
        except UmbelError as error:
            print(f"umbel: {error}", file=sys.stderr)
            code = error.exit_code
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            code = 1
        sys.stderr.flush()
        time.sleep(self.lingering.get(rank, 0.0))
        (self.folder / f"left-{rank}").touch()
        os._exit(code)

    def began(self) -> None:
        """Wait until all ranks are watched."""
        while not all((self.folder / f"began-{rank}").exists() for rank in self.processes):
            time.sleep(0.02)

    def kill(self, rank: int, number: signal.Signals) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def end(self, rank: int) -> tuple[int | None, str]:
        """How a rank ended, and what it said."""
        self.processes[rank].join(60)
        assert not self.processes[rank].is_alive(), f"rank {rank} never ended"
        return self.processes[rank].exitcode, (self.folder / f"said-{rank}").read_text()


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(tmp_path)
    yield made
    for process in made.processes.values():
        process.kill()
        process.join()


def blocked(watch: RankWatch) -> None:
    """As in a collective that never ends."""
    watch.at("step 3: the outcome")
    time.sleep(FOREVER)


def until(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


HOST = os.uname().nodename


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (UserError("the disk is full: make room."), 2, "the disk is full: make room"),
        (TrainingError("a data worker died."), 3, "a data worker died"),
        (ValueError("no such axis\nsecond line"), 1, "ValueError: no such axis"),
        (KeyboardInterrupt(), 1, "it was interrupted"),
    ],
)
def test_a_rank_that_fails_is_told_by_all_others_even_while_they_are_blocked(
    error: BaseException, code: int, cause: str, ranks: Ranks
) -> None:
    def fail(watch: RankWatch) -> None:
        until(ranks.folder / "began-0")
        watch.at("step 3: waiting for data")
        raise error

    ranks.start(blocked, fail, blocked, timeout=FOREVER)
    assert ranks.end(1)[0] == code
    assert "failed first" not in ranks.end(1)[1]
    for rank in (0, 2):
        assert ranks.end(rank) == (3, f"umbel: rank 1 of 3 (host {HOST}) failed first: {cause}.\n")


def test_the_rank_that_failed_ends_first_for_its_launcher_names_the_first(ranks: Ranks) -> None:
    def fail(watch: RankWatch) -> None:
        raise ValueError("no such axis")

    ranks.lingering[1] = 3.5  # a look comes every second
    ranks.start(blocked, fail, timeout=5.0)
    until(ranks.folder / "left-1")
    assert ranks.processes[0].is_alive()
    assert ranks.end(0)[1].endswith(f"rank 1 of 2 (host {HOST}) failed first: ValueError: no such axis.\n")


def test_a_rank_that_is_killed_is_told_by_the_others_even_while_they_are_blocked(ranks: Ranks) -> None:
    ranks.start(blocked, blocked, timeout=FOREVER)
    ranks.began()
    time.sleep(3)  # one look, so that the notes are known
    ranks.kill(1, signal.SIGKILL)
    place = "is gone at step 3: the outcome (killed, perhaps for want of memory)"
    told = f"umbel: rank 1 of 2 (host {HOST}) {place}: the same command continues from the last checkpoint.\n"
    assert ranks.end(0) == (3, told)


def collective(watch: RankWatch) -> None:
    """Sum over the ranks until one is gone."""
    step = 0
    while True:
        watch.at(f"step {step}: the outcome")
        torch.distributed.all_reduce(torch.zeros(1))
        step += 1


def gloo(folder: Path, ranks: int, timeout: timedelta = timedelta(seconds=60)) -> Callable[[int], object]:
    """Joins a process group in `folder`."""

    def join(rank: int) -> None:
        meeting = f"file://{folder / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timeout)

    return join


def test_a_collective_that_breaks_tells_who_was_killed(ranks: Ranks) -> None:
    def die(watch: RankWatch) -> None:
        torch.distributed.all_reduce(torch.zeros(1))
        os.kill(os.getpid(), signal.SIGKILL)

    ranks.start(collective, die, collective, before=gloo(ranks.folder, 3))
    place = "is gone at step 1: the outcome (killed, perhaps for want of memory)"
    for rank in (0, 2):
        code, said = ranks.end(rank)
        assert code == 3
        assert f"umbel: rank 1 of 3 (host {HOST}) {place}" in said
        assert "Traceback" not in said


def test_a_collective_that_breaks_tells_who_is_silent_on_another_machine(ranks: Ranks) -> None:
    """Where it cannot be known that a process is dead, its silence counts."""
    join = gloo(ranks.folder, 2)

    def elsewhere(rank: int) -> None:
        rank_notes._system = lambda: f"machine {rank}"
        join(rank)

    def die(watch: RankWatch) -> None:
        torch.distributed.all_reduce(torch.zeros(1))
        os.kill(os.getpid(), signal.SIGKILL)

    ranks.start(collective, die, before=elsewhere)
    code, said = ranks.end(0)
    assert code == 3
    assert f"umbel: rank 1 of 2 (host {HOST}) is gone at step 1: the outcome (killed" in said


def test_a_collective_that_breaks_tells_the_failure_of_another_rank_and_sigterm_does_not_cut_it_off(
    ranks: Ranks,
) -> None:
    def die(watch: RankWatch) -> None:
        torch.distributed.all_reduce(torch.zeros(1))
        torch.distributed.destroy_process_group()  # the others' collective breaks before anything is told
        time.sleep(1)
        ranks.folder.joinpath("broken").touch()
        time.sleep(1)
        raise ValueError("no such axis")

    ranks.start(collective, die, before=gloo(ranks.folder, 2), timeout=10.0)
    until(ranks.folder / "broken")
    ranks.kill(0, signal.SIGTERM)  # as torchrun does
    code, said = ranks.end(0)
    assert (code, ranks.end(1)[0]) == (3, 1)
    assert f"umbel: rank 1 of 2 (host {HOST}) failed first: ValueError: no such axis.\n" in said
    assert "Traceback" not in said


def test_a_collective_that_breaks_while_all_ranks_live_is_said_so(ranks: Ranks) -> None:
    def leave(watch: RankWatch) -> None:
        torch.distributed.all_reduce(torch.zeros(1))
        torch.distributed.destroy_process_group()
        for _ in range(300):
            time.sleep(0.1)
            watch.at("elsewhere")

    ranks.start(collective, leave, before=gloo(ranks.folder, 2))
    code, said = ranks.end(0)
    assert code == 3
    assert "umbel: the ranks lost each other at step 1: the outcome (RuntimeError: [" in said
    assert "and none failed; the same command continues from the last checkpoint." in said


def test_an_error_of_this_rank_alone_stays_as_it_is(ranks: Ranks) -> None:
    def fail(watch: RankWatch) -> None:
        raise RuntimeError("shapes do not fit")

    ranks.start(fail, blocked, timeout=10 * TIMEOUT)
    code, said = ranks.end(0)
    assert code == 1
    assert said.splitlines()[-1] == "RuntimeError: shapes do not fit"
    assert ranks.end(1)[1] == f"umbel: rank 0 of 2 (host {HOST}) failed first: RuntimeError: shapes do not fit.\n"


def test_a_run_that_gets_no_further_ends_and_every_rank_writes_where_it_stood(ranks: Ranks) -> None:
    def stuck_in_reading(watch: RankWatch) -> None:
        watch.at("step 2: waiting for data")
        time.sleep(FOREVER)

    def ahead(watch: RankWatch) -> None:
        watch.at("step 2: waiting for data")
        blocked(watch)

    ranks.start(ahead, stuck_in_reading)
    for rank in (0, 1):
        code, said = ranks.end(rank)
        assert code == 3
        assert said.startswith("umbel: no progress for 2 s (--train.timeout): rank 1 of 2 ")
        assert "stands at step 2: waiting for data; the same command continues" in said
        stacks = ranks.folder / f"stacks-rank-{rank:05d}.txt"
        assert said.endswith(f"(Python stacks: {stacks}).\n")
        assert ("in stuck_in_reading" if rank else "in blocked") in stacks.read_text()


def test_children_end_with_a_process_that_its_watch_ends(ranks: Ranks) -> None:
    """Data workers would hold its memory and the terminal for some seconds more."""

    def with_child(watch: RankWatch) -> None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOREVER,))
        child.start()
        (ranks.folder / "child").write_text(str(child.pid))
        blocked(watch)

    ranks.start(with_child)
    assert ranks.end(0)[0] == 3
    state = Path(f"/proc/{(ranks.folder / 'child').read_text()}/stat")
    deadline = time.monotonic() + 60
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":  # nobody may look after it now
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stopped_rank_is_named_by_the_others_and_finds_out_when_it_wakes(ranks: Ranks) -> None:
    ranks.start(blocked, blocked)
    ranks.began()
    ranks.kill(1, signal.SIGSTOP)
    code, said = ranks.end(0)
    assert code == 3
    assert said.startswith("umbel: no sign of life for 2 s (--train.timeout) from rank 1 of 2 ")
    ranks.kill(1, signal.SIGCONT)
    code, told = ranks.end(1)
    assert code == 3
    assert told.split(" (Python stacks")[0] == said.split(" (Python stacks")[0]


def test_a_machine_that_sleeps_accuses_nobody(ranks: Ranks) -> None:
    def brief(watch: RankWatch) -> None:
        until(ranks.folder / "awake")
        watch.at("the end")

    ranks.start(brief, brief)
    ranks.began()
    for rank in (0, 1):
        ranks.kill(rank, signal.SIGSTOP)
    time.sleep(2 * TIMEOUT)
    for rank in (0, 1):
        ranks.kill(rank, signal.SIGCONT)
    (ranks.folder / "awake").touch()
    for rank in (0, 1):
        assert ranks.end(rank) == (0, "")


def test_one_process_alone_is_watched_too(ranks: Ranks) -> None:
    ranks.start(blocked)
    code, said = ranks.end(0)
    assert code == 3
    assert "no progress for 2 s (--train.timeout): this process stands at step 3: the outcome;" in said
    assert "in blocked" in (ranks.folder / "stacks-rank-00000.txt").read_text()


def test_a_pause_may_take_longer_and_one_that_is_over_may_not(ranks: Ranks) -> None:
    def saves(watch: RankWatch) -> None:
        watch.at("step 4: the checkpoint")
        with watch.paused("step 4: saving"):
            time.sleep(2.5 * TIMEOUT)
        (ranks.folder / "saved").touch()
        time.sleep(FOREVER)

    def waits(watch: RankWatch) -> None:
        watch.at("step 4: the checkpoint")
        time.sleep(FOREVER)

    ranks.start(saves, waits)
    for rank in (0, 1):
        code, said = ranks.end(rank)
        assert code == 3
        assert "ranks 0, 1 of 2" in said
        assert "stand at step 4: the checkpoint;" in said
    assert (ranks.folder / "saved").exists()


def test_a_place_may_have_a_limit_of_its_own(ranks: Ranks) -> None:
    def compiles(watch: RankWatch) -> None:
        watch.at("step 0: forward and backward", times=10)
        time.sleep(2.5 * TIMEOUT)
        watch.at("step 0: the outcome")

    ranks.start(compiles)
    assert ranks.end(0) == (0, "")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_good_end_leaves_nothing_and_is_no_death(stopped: bool, ranks: Ranks) -> None:
    def early(watch: RankWatch) -> None:
        if stopped:
            raise Stopped("SIGTERM: saved.", 75)

    def late(watch: RankWatch) -> None:
        for step in range(20):
            time.sleep(TIMEOUT / 8)
            watch.at(f"step {step}")
        early(watch)

    ranks.start(early, late, early)
    expected = (75, "umbel: SIGTERM: saved.\n") if stopped else (0, "")
    for rank in range(3):
        assert ranks.end(rank) == expected
    assert not (ranks.folder / "ranks").exists()


def test_what_an_earlier_start_left_confuses_nobody(ranks: Ranks) -> None:
    def fail(watch: RankWatch) -> None:
        raise ValueError("once")

    ranks.start(blocked, fail)
    assert [ranks.end(rank)[0] for rank in (0, 1)] == [3, 1]

    def good(watch: RankWatch) -> None:
        for step in range(10):
            time.sleep(TIMEOUT / 8)
            watch.at(f"step {step}")

    ranks.start(good, good, start="then")
    for rank in (0, 1):
        assert ranks.end(rank) == (0, "")


def test_the_process_groups_own_timeout_does_not_come_first(ranks: Ranks) -> None:
    def late(watch: RankWatch) -> None:
        with watch.paused("saving"):
            time.sleep(4)
        torch.distributed.all_reduce(torch.zeros(1))

    def waits(watch: RankWatch) -> None:
        torch.distributed.all_reduce(torch.zeros(1))

    ranks.start(waits, late, before=gloo(ranks.folder, 2, timedelta(seconds=2)), timeout=30.0)
    for rank in (0, 1):
        assert ranks.end(rank)[0] == 0
