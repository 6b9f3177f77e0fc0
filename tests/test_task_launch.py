"""Tasks with the words of local processes, and what a dry run lists."""

from pathlib import Path

import pytest

from umbel.launch.launch_config import LaunchConfig
from umbel.task import Task
from umbel.task_launch import list_commands, with_launch


def test_a_dry_run_of_local_processes_lists_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = LaunchConfig(where="local", processes=2, dry_run=True)
    places = {"result": tmp_path / "r", "log": tmp_path / "l", "folder": tmp_path}
    tasks = [Task(name=name, words=(name, "d"), needs=(), **places) for name in ("pretrain", "probe")]
    list_commands([with_launch(task, launch) for task in tasks], launch)
    assert capsys.readouterr().out.splitlines() == [
        "pretrain: umbel pretrain d --launch.where local --launch.processes 2",
        "probe: umbel probe d",
    ]
