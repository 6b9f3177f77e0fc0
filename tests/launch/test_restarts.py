"""What a job's starts brought, and when starting again is given up; what its log tells of memory."""

from pathlib import Path

import pytest

from umbel.launch.out_of_memory import MARK, out_of_memory
from umbel.launch.restarts import WITHOUT_A_WORD, NoProgressError, Restarts, progress


def test_the_first_start_has_no_reason_and_later_ones_have_the_last_ends(tmp_path: Path) -> None:
    restarts, out = Restarts(tmp_path, "7"), tmp_path / "run"
    assert restarts.begin(0, out, "n1", 3) is None
    restarts.note("end", code=75, reason="preempted", requeue=True)
    assert restarts.begin(1, out, "n2", 3) == "preempted"
    assert restarts.begin(2, out, "n1", 3) == WITHOUT_A_WORD  # nothing was noted at its end
    assert [row.get("nodes") for row in restarts.rows] == ["n1", None, "n2", "n1"]
    assert restarts.begin(0, out, "n1", 3) is None  # another cluster's job of the same number
    assert len(restarts.rows) == 1


@pytest.mark.parametrize("requeues", [0, 2])
def test_restarts_without_progress_are_limited(tmp_path: Path, requeues: int) -> None:
    restarts, out = Restarts(tmp_path, "7"), tmp_path / "run"
    for step in (4, 8):
        (out / f"checkpoints/step-{step:08d}").mkdir(parents=True)
        restarts.begin(step // 4 - 1, out, "n", requeues)
    for restart in range(requeues):
        restarts.begin(2 + restart, out, "n", requeues)
    with pytest.raises(NoProgressError, match=rf"^{requeues + 1} starts in a row ended without anything new"):
        restarts.begin(2 + requeues, out, "n", requeues)
    (out / "checkpoints/step-00000012").mkdir()
    restarts.begin(3 + requeues, out, "n", requeues)


def test_progress_is_the_newest_checkpoint_or_what_was_made(tmp_path: Path) -> None:
    assert progress(tmp_path / "none") == 0
    (tmp_path / "launch").mkdir()
    for file in ("launch/log", "a", "b"):
        (tmp_path / file).touch()
    assert progress(tmp_path) == 2
    for step in ("step-00000100", "step-00000020", ".step-00000300.tmp", "step-x"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
    assert progress(tmp_path) == 100


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=3.0.", "out of memory (a process had had 1.50 GiB"),
        ("srun: error: n1: task 0: Out Of Memory", "out of memory (a process had had 1.50 GiB by step 6)"),
        (
            "StepId=3.0 exceeded memory limit (3221225472 > 2147483648), being killed",
            "out of memory (SLURM counted 3.00 GiB of 2.00; a process had had 1.50 GiB by step 6)",
        ),
        ("umbel: rank 1 is gone.", None),
    ],
)
def test_the_last_starts_log_tells_of_memory(tmp_path: Path, said: str, words: str | None) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "memory_gib": 1.0}\n{"step": 6, "memory_gib": 1.5}\n{"torn')
    (tmp_path / "3_0_log.err").write_text(f"{MARK}0 of job 3.\noom_kill\n{MARK}1 of job 3.\n{said}\n")
    found = out_of_memory(tmp_path, "3", tmp_path)
    assert found is None if words is None else words in str(found)
