"""`umbel pretrain` that is killed at any moment, or whose disk is full: what was saved stays, none is told twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

# The process kills itself in front of the renaming of a path whose new name fits, the second time that one does.
KILL_AT_RENAME = """
from pathlib import Path
def renames(rename, times=iter(range(1 << 30))):
    def or_die(path, target):
        if Path(target).match("{pattern}") and next(times) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)
    return or_die
Path.rename = renames(Path.rename)
"""
AT_STEP = """
import umbel.ssl.train as loop
def fault(image_loss, steps=iter(range(1 << 30))):
    def of_step(*args, **settings):
        step, found = next(steps), image_loss(*args, **settings)
        {what}
        return found
    return of_step
loop.image_loss = fault(loop.image_loss)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def assert_equal(tiny: Any, run: Path, whole: Path, every: int = 2) -> None:
    """Weights, averages and log of a continued run are those of the whole one, bit for bit."""
    found, expected = tiny.state(run, tiny.steps), tiny.state(whole, tiny.steps)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert tiny.checkpoints(run) == tiny.checkpoints(whole)
    rows, all_rows = tiny.lines(run), tiny.lines(whole)
    assert [row["step"] for row in rows] == list(range(every, tiny.steps + 1, every))
    for row, other in zip(rows, all_rows, strict=True):
        for name in ("step", "loss", "compression", "expansion", "patch_loss", "grad_norm_head", "bad_steps"):
            assert row[name] == other[name], (row["step"], name)


@pytest.mark.parametrize(
    ("pattern", "left", "good"),
    [
        # The checkpoint of step 8 lies written beside, and has not got its name yet.
        ("step-*", ["step-00000004"], [4]),
        # That of step 16 has its name; of those to be removed the second is still there.
        (".step-*.removed", ["step-00000008", "step-00000012", "step-00000016"], [8, 12, 16]),
    ],
    ids=["between writing and renaming", "between renaming and removing"],
)
def test_a_kill_inside_a_save_loses_nothing_that_was_saved(
    pattern: str, left: list[str], good: list[int], undisturbed: Path, tiny: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (ended,) = tiny.run(run, inject=KILL_AT_RENAME.format(pattern=pattern))
    assert ended.code == -signal.SIGKILL
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert [name for name in names if not name.startswith(".")] == left
    assert len(names) == len(left) + (pattern == "step-*")  # what was written beside takes room until the next start
    (done,) = tiny.good(run)
    assert f"continuing from {run / 'checkpoints' / left[-1]}, step {good[-1]} of 32." in done.out
    assert_equal(tiny, run, undisturbed)


def test_logs_are_cut_back_to_the_checkpoint(tiny: Any, tmp_path: Path) -> None:
    """Steps 2 and 6 are bad; the kill at step 8 leaves the checkpoint of step 4, and step 6 is good the next time."""
    run = tmp_path / "run"
    what = f"if step in (1, 5): found = (found[0] * float('nan'), *found[1:])\n        if step == 7: {KILL}"
    (ended,) = tiny.run(run, inject=AT_STEP.format(what=what))
    assert ended.code == -signal.SIGKILL
    assert [row["step"] for row in tiny.lines(run, "bad_steps")] == [2, 6]
    assert [row["step"] for row in tiny.lines(run)] == [2, 4, 6]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # as a kill in the middle of writing leaves it
    tiny.good(run)
    assert [row["step"] for row in tiny.lines(run)] == list(range(2, tiny.steps + 1, 2))
    assert [row["step"] for row in tiny.lines(run, "bad_steps")] == [2]
    assert {row["bad_steps"] for row in tiny.lines(run)} == {1}


# From the second checkpoint on no file may grow beyond 300 kB: the system refuses to write more of training.pt.
SMALL_FILES = """
import resource
import umbel.ssl.train as loop
def saves(save_checkpoint):
    def save(folder, *, step, **parts):
        if step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        return save_checkpoint(folder, step=step, **parts)
    return save
loop.save_checkpoint = saves(loop.save_checkpoint)
"""


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    undisturbed: Path, tiny: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (done,) = tiny.run(run, inject=SMALL_FILES)
    assert done.code == 2
    said = done.err.splitlines()[-1]
    assert said.startswith(f"umbel: checkpoint {run / 'checkpoints' / 'step-00000008'} could not be written (")
    assert said.endswith(f"); the last good one is {run / 'checkpoints' / 'step-00000004'}.")
    assert "Traceback" not in done.err
    assert tiny.checkpoints(run) == [4]
    tiny.good(run)
    assert_equal(tiny, run, undisturbed)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_other_rank_learns_of_it(
    undisturbed: Path, tiny: Any, tmp_path: Path
) -> None:
    """A file system of its own, with room for one checkpoint and not for two."""
    one = sum(path.stat().st_size for path in (undisturbed / "checkpoints" / "step-00000032").rglob("*"))
    shards = sum(path.stat().st_size for path in (undisturbed / "shards").rglob("*"))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={shards + 3 * one // 2}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here ({mounted.stderr.strip()})")
    try:
        run = disk / "run"
        zero, other = tiny.run(run, "--train.batch", 4, ranks=2)
        assert (zero.code, other.code) == (2, 3)
        said = zero.err.splitlines()[-1]
        assert said.startswith(f"umbel: checkpoint {run / 'checkpoints' / 'step-00000008'} could not be written (")
        assert said.endswith(f"); the last good one is {run / 'checkpoints' / 'step-00000004'}.")
        assert ") failed first: checkpoint " in other.err.splitlines()[-1]
        assert "Traceback" not in zero.err + other.err
        assert tiny.checkpoints(run) == [4]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_log_that_cannot_be_written_is_one_sentence(tiny: Any, tmp_path: Path) -> None:
    """/dev/full stands in for the disk: whatever is written to it, it is full."""
    run = tmp_path / "run"
    what = f"if step == 5: os.remove('{run}/metrics.jsonl'); os.symlink('/dev/full', '{run}/metrics.jsonl')"
    (done,) = tiny.run(run, inject=AT_STEP.format(what=what))
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        f"umbel: {run / 'metrics.jsonl'} could not be written (No space left on device): make room, and the same "
        "command continues from the last checkpoint."
    )
    assert "Traceback" not in done.err
    assert tiny.checkpoints(run) == [4]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_twenty_kills_at_any_moment_leave_no_trace(ranks: int, tiny: Any, tmp_path: Path) -> None:
    """All processes are killed within half a second of their first checkpoint, and they save at every step."""
    flags = ("--train.batch", 8 // ranks, "--train.save-every", 1, "--train.log-every", 1)
    tiny.good(tmp_path / "whole", *flags, ranks=ranks)
    delays, kills, runs = random.Random(ranks), [], [tmp_path / "run-0"]

    def saved() -> list[str]:
        return sorted(path.name for path in runs[-1].glob("checkpoints/*"))

    while len(kills) < 20:
        before = saved()
        processes = tiny.start(runs[-1], *flags, ranks=ranks)
        while saved() == before and not all((process.folder / "code").exists() for process in processes):
            time.sleep(0.005)
        time.sleep(delays.uniform(0.0, 0.5))
        for process in processes:
            if not (process.folder / "code").exists():
                os.killpg(process.pid, signal.SIGKILL)
        codes = [process.wait().code for process in processes]
        if codes == [0] * ranks:
            assert_equal(tiny, runs[-1], tmp_path / "whole", every=1)
            runs.append(tmp_path / f"run-{len(runs)}")
            continue
        assert -signal.SIGKILL in codes, [(process.folder / "err").read_text() for process in processes]
        kills.append(saved())
    tiny.good(runs[-1], *flags, ranks=ranks)
    assert_equal(tiny, runs[-1], tmp_path / "whole", every=1)
    steps = [names[-1] if names else "none" for names in kills]
    saving = sum(names[0].startswith(".") for names in kills if names)
    print(f"{ranks} rank(s): 20 kills in {len(runs)} runs, {saving} inside a save, behind {', '.join(steps)}")
