"""`umbel pretrain` on two ranks of which one fails, dies, stops or computes nonsense; and on one more or less."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

# At the loss of some steps, counted from the start of the process, a rank does something else.
FAULT = """
import umbel.ssl.train as loop
def fault(real, steps=iter(range(1 << 30))):
    def faulty(*args, **settings):
        step, found = next(steps), real(*args, **settings)
        if os.environ.get("RANK", "{rank}") == "{rank}" and {when}:
            {what}
        return found
    return faulty
loop.{where} = fault(loop.{where})
"""
# Digests of student, optimizer and teacher around every step, of each rank.
WATCHED = """
import hashlib, json
import umbel.ssl.train as loop
def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()
def told(**row):
    with open("{out}" + os.environ.get("RANK", "0"), "a") as file:
        file.write(json.dumps(row) + chr(10))
def steps(step_unless):
    def step(bad, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        def state():
            averages = [t for p in parameters for t in optimizer.state[p].values()]
            return digest(parameters), digest(averages)
        before = state()
        step_unless(bad, optimizer)
        told(what="step", bad=float(bad), before=before, after=state())
    return step
def averages(update_teacher):
    def update(teacher, *rest):
        before = digest(teacher.parameters())
        update_teacher(teacher, *rest)
        told(what="teacher", before=before, after=digest(teacher.parameters()))
    return update
loop.step_unless, loop.update_teacher = steps(loop.step_unless), averages(loop.update_teacher)
"""
NONSENSE = "found = (found[0] * float('nan'), *found[1:])"
TWO = ("--train.batch", 4)
GOES_ON = "the same command continues from the last checkpoint"


def fault(when: str, what: str, *, rank: int = 1, where: str = "image_loss") -> str:
    return FAULT.format(when=when, what=what, rank=rank, where=where)


def first(text: str, *words: str) -> str:
    """Which of some words comes first in a text."""
    assert all(word in text for word in words), text
    return min(words, key=text.index)


def test_a_rank_that_fails_ends_all_and_its_cause_comes_first(tiny: Any, tmp_path: Path) -> None:
    done = tiny.torchrun(tmp_path / "run", *TWO, inject=fault("step == 6", "raise ValueError('a fault of rank 1')"))
    assert done.code == 1
    own, repeated = "\n[rank1]: ValueError: a fault of rank 1\n", "failed first: ValueError: a fault of rank 1.\n"
    assert first(done.err, own, repeated, "ChildFailedError") == own
    assert first(done.err, repeated, "ChildFailedError") == repeated
    # Of the two ranks one has a traceback; the launcher, which speaks last, names it.
    assert done.err.count("[rank1]: Traceback") == 1
    assert "[rank0]: Traceback" not in done.err
    assert "Root Cause (first observed failure):\n[0]:" in done.err
    assert "rank      : 1 (local_rank: 1)\n  exitcode  : 1 " in done.err.partition("Root Cause")[2]


def test_without_a_launcher_too(tiny: Any, tmp_path: Path) -> None:
    what = "raise loop.UserError('rank 1 has no room: make some.')"
    zero, one = tiny.run(tmp_path / "run", *TWO, ranks=2, inject=fault("step == 6", what))
    assert (zero.code, one.code) == (3, 2)
    assert zero.err.splitlines()[-1].startswith("umbel: rank 1 of 2 (host ")
    assert zero.err.endswith(") failed first: rank 1 has no room: make some.\n")
    assert one.err.splitlines()[-1] == "umbel: rank 1 has no room: make some."
    assert "Traceback" not in zero.err + one.err


def test_a_rank_that_fails_before_the_training_ends_all(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("dear")
    zero, one = tiny.run(tmp_path / "run", *TWO, ranks=2)
    assert (zero.code, one.code) == (2, 2)
    assert "holds other files than a run's" in zero.err.splitlines()[-1]
    assert "umbel: " not in one.err  # it is said once
    assert "Traceback" not in zero.err + one.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


ABSENT = """
from datetime import timedelta
import umbel.ranks
umbel.ranks.MEETING = timedelta(seconds=3)
if os.environ["RANK"] == "1":
    sys.exit("rank 1 has no GPU")
"""


def test_a_rank_that_never_comes_is_waited_for_with_an_end(tiny: Any, tmp_path: Path) -> None:
    zero, one = tiny.run(tmp_path / "run", *TWO, ranks=2, inject=ABSENT)
    assert (zero.code, one.code) == (3, 1)
    said = zero.err.splitlines()[-1]
    assert said.startswith("umbel: not all ranks came within 3 s (")
    assert said.endswith("): see what the others say, and whether MASTER_ADDR can be reached from each machine.")
    assert "Traceback" not in zero.err


def test_a_rank_that_is_killed_is_named_and_the_run_goes_on_at_once(tiny: Any, tmp_path: Path) -> None:
    """Rank 0, which holds the run folder's lock: its data workers, who live a little longer, must not keep it."""
    run = tmp_path / "run"
    done = tiny.torchrun(run, *TWO, inject=fault("step == 6", "os.kill(os.getpid(), signal.SIGKILL)", rank=0))
    assert done.code == 1
    said = next(line for line in done.err.splitlines() if line.startswith("umbel: "))
    assert said.startswith("umbel: rank 0 of 2 (host ")
    assert said.endswith(f") is gone at step 6: forward and backward (killed, perhaps for want of memory): {GOES_ON}.")
    assert first(done.err, said, "ChildFailedError") == said
    assert "Traceback" not in done.err.partition(said)[0]
    assert "continuing from" in tiny.good(run, *TWO, ranks=2)[0].out
    assert [row["step"] for row in tiny.lines(run)] == list(range(2, tiny.steps + 1, 2))


def test_a_rank_that_is_stopped_is_named_and_all_stacks_are_kept(tiny: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stops = fault("step == 6", "os.kill(os.getpid(), signal.SIGSTOP)")
    zero, one = tiny.start(run, *TWO, "--train.timeout", 10, ranks=2, inject=stops)
    done = zero.wait()
    one.stopped()
    one.send(signal.SIGKILL)
    assert one.wait().code == -signal.SIGKILL
    assert done.code == 3
    stacks = run / "stacks-rank-00000.txt"
    said = done.err.splitlines()[-1]
    assert said.startswith("umbel: no sign of life for 10 s (--train.timeout) from rank 1 of 2 (host ")
    assert said.endswith(f"; {GOES_ON} (Python stacks: {stacks}).")
    assert "in train\n" in stacks.read_text()
    assert "Traceback" not in done.err


def test_a_rank_that_hangs_is_named_with_its_place(tiny: Any, tmp_path: Path) -> None:
    hangs = fault("step == 12", "time.sleep(300)", where="clip_gradients")  # called twice a step
    for done in tiny.run(tmp_path / "run", *TWO, "--train.timeout", 10, ranks=2, inject=hangs):
        assert done.code == 3
        said = done.err.splitlines()[-1]
        assert said.startswith("umbel: no progress for 10 s (--train.timeout): rank 1 of 2 (host ")
        assert f") stands at step 6: forward and backward; {GOES_ON} (Python stacks: " in said


def test_a_bad_step_of_one_rank_changes_nothing_on_either(tiny: Any, tmp_path: Path) -> None:
    run, bad = tmp_path / "run", 5
    inject = fault(f"step == {bad}", NONSENSE) + WATCHED.format(out=tmp_path / "told-")
    tiny.good(run, *TWO, "--train.epochs", 3, ranks=2, inject=inject)
    zero, one = ([json.loads(line) for line in (tmp_path / f"told-{r}").read_text().splitlines()] for r in (0, 1))
    assert zero == one
    steps = [row for row in zero if row["what"] == "step"]
    teacher = [row for row in zero if row["what"] == "teacher"]
    assert len(steps) == len(teacher) == 12
    for number, (step, average) in enumerate(zip(steps, teacher, strict=True)):
        assert step["bad"] == float(number == bad)
        for before, after in (*zip(step["before"], step["after"], strict=True), (average["before"], average["after"])):
            assert (before == after) is (number == bad), number
    rows = tiny.lines(run, "bad_steps")
    assert [(row["step"], row["rank"], len(row["keys"])) for row in rows] == [(bad + 1, 1, 4)]
    assert rows[0]["terms"] == ["loss", "image_loss", "grad_norm_backbone", "grad_norm_head"]
    assert [row["bad_steps"] for row in tiny.lines(run)] == [0, 0, 1, 1, 1, 1]
    assert all(row["loss"] is not None for row in tiny.lines(run))


def test_the_third_bad_step_in_a_row_ends_all_with_term_keys_and_checkpoint(tiny: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    zero, one = tiny.run(run, *TWO, ranks=2, inject=fault("step in (1, 5, 6, 7)", NONSENSE))
    assert (zero.code, one.code) == (3, 3)
    rows = tiny.lines(run, "bad_steps")
    assert [(row["step"], row["rank"]) for row in rows] == [(2, 1), (6, 1), (7, 1), (8, 1)]
    assert zero.err.splitlines()[-1] == (
        "umbel: 3 steps in a row were not finite (step 8, rank 1: loss, image_loss, grad_norm_backbone, "
        f"grad_norm_head; first key {rows[-1]['keys'][0]}, all in {run / 'bad_steps.jsonl'}); the last good checkpoint "
        f"is {run / 'checkpoints' / 'step-00000004'}: start again with a lower --optim.learning-rate."
    )
    assert "umbel: " not in one.err  # it is said once
    assert "Traceback" not in zero.err + one.err
    assert not (run / "ranks").exists()


def test_sigterm_of_one_rank_saves_on_all(tiny: Any, tmp_path: Path) -> None:
    asked = fault("step == 6", "os.kill(os.getpid(), signal.SIGTERM)")
    zero, one = tiny.run(tmp_path / "run", *TWO, ranks=2, inject=asked)
    assert (zero.code, one.code) == (75, 75)
    assert zero.err.splitlines()[-1] == "umbel: SIGTERM: saved at step 7 of 32; the same command continues."
    assert tiny.checkpoints(tmp_path / "run") == [4, 7]


@pytest.fixture(scope="module")
def undropped(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank without drop path, which draws from its rank."""
    run: Path = tmp_path_factory.mktemp("undropped") / "run"
    tiny.good(run, "--optim.drop-path", 0, "--train.epochs", 4)
    return run


@pytest.mark.parametrize("ranks", [1, 2])
def test_another_number_of_ranks_goes_on_at_the_same_sample(
    ranks: int, undropped: Path, tiny: Any, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", 3 - ranks
    flags = ("--optim.drop-path", 0, "--train.epochs", 4)
    asked = fault("step == 6", "os.kill(os.getpid(), signal.SIGTERM)")
    ended = tiny.run(run, *flags, "--train.batch", 8 // ranks, ranks=ranks, inject=asked)
    assert [rank.code for rank in ended] == [75] * ranks
    # The micro-batch that was right makes another global batch now.
    refused = tiny.run(run, *flags, "--train.batch", 8 // ranks, ranks=other)
    assert [rank.code for rank in refused] == [2] * other
    fits = f"{other} rank{'s' if other > 1 else ''} can go on with --train.batch {8 // other} --train.accumulation 1"
    product = f"{8 // ranks} x {other} x 1 = {8 // ranks * other}"
    assert refused[0].err.splitlines()[-1] == (
        f"umbel: {run} was begun with a global batch of 8 (micro-batch x ranks x accumulation) and not {product}; "
        f"{fits}: choose another --out, or --force to move it aside."
    )
    assert "coding rate saw" not in tiny.good(run, *flags, "--train.batch", 8 // other, ranks=other)[0].out
    rows, whole = tiny.lines(run), tiny.lines(undropped)
    assert [row["step"] for row in rows] == [row["step"] for row in whole] == list(range(2, 17, 2))
    for row, expected in zip(rows, whole, strict=True):
        if row["step"] != 8:  # the log's interval was cut
            for name in ("loss", "compression", "expansion", "patch_loss"):
                assert row[name] == pytest.approx(expected[name], abs=5e-4), row["step"]
    found, expected_state = tiny.state(run, 16), tiny.state(undropped, 16)
    for name, tensor in expected_state.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=2e-2)


def test_accumulation_may_stand_in_for_ranks_and_the_log_says_what_that_changes(
    undropped: Path, tiny: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stops = fault("step == 2", "os.kill(os.getpid(), signal.SIGTERM)")
    tiny.run(run, "--train.epochs", 1, inject=stops)
    done = tiny.good(run, "--train.epochs", 1, "--train.batch", 2, "--train.accumulation", 4)
    assert (
        "the coding rate saw m = 8 (micro-batch x ranks) so far and sees 2 from here on: the global batch is the same, "
        "the loss not quite." in done[0].out
    )
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert [(start["batch"], start["ranks"], start["accumulation"]) for start in starts] == [(8, 1, 1), (2, 1, 4)]
    assert [row["step"] for row in tiny.lines(run)] == [2, 4]
