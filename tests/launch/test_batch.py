"""Why a job ended, from SLURM's words."""

import pytest

from umbel.launch.batch import seconds, why_it_ended

RUNNING = {"JobState": "RUNNING", "PreemptTime": "None", "Restarts": "1", "TimeLimit": "1-00:00:00"}


@pytest.mark.parametrize(
    ("code", "changes", "reason"),
    [
        (75, {"RunTime": "02:00:00", "PreemptTime": "2026-11-26T05:11:08"}, "preempted"),
        (75, {"RunTime": "02:00:00", "Restarts": "2", "JobState": "COMPLETING"}, "scontrol requeue"),
        (75, {"RunTime": "23:57:10"}, "the time limit of 1-00:00:00"),
        (75, {"RunTime": "23:56:50"}, "SIGTERM or SIGUSR2"),
        (75, {"RunTime": "23:57:10", "JobState": "COMPLETING"}, "canceled"),
        (75, {"RunTime": "1-00:00:03", "JobState": "COMPLETING"}, "the time limit of 1-00:00:00"),
        (75, {"RunTime": "02:00:00", "JobState": "COMPLETING"}, "canceled"),
        (137, {"RunTime": "02:00:00"}, "a process was ended by signal 9"),
        (75, {"RunTime": "02:00:00", "TimeLimit": "UNLIMITED"}, "SIGTERM or SIGUSR2"),
    ],
)
def test_why_it_ended(code: int, changes: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_SIGNAL_DELAY", "120")
    assert why_it_ended(code, RUNNING | changes, 1) == reason


def test_durations() -> None:
    assert seconds("00:01:30") == 90
    assert seconds("2-01:00:01") == 49 * 3600 + 1
    assert seconds("UNLIMITED") == float("inf")
