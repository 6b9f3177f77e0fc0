"""What runs in a job's tasks, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
CALL = """
import sys
from umbel.launch.job import Job
Job(argv=tuple(sys.argv[1:]))()
"""
# Stands in for the package: a command that takes long, with a forked child as data workers are.
SLOW = """
import os, pathlib, time
if os.fork() == 0:
    pathlib.Path("child").write_text(str(os.getpid()))
    time.sleep(3)
    pathlib.Path("unharmed").touch()
    os._exit(0)
while not pathlib.Path("child").exists():
    time.sleep(0.02)
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["no-such-command"], 2)])
def test_a_job_ends_with_the_commands_exit_code(words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", CALL, *words], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == code
    assert ("umbel 0." in done.stdout) == (code == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_command_that_saves_as_it_goes_is_left_at_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    code = CALL.replace("Job(", f"import runpy; runpy.run_module = lambda *_, **__: exec({SLOW!r})\nJob(")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(int((tmp_path / "child").read_text()), number)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert err.decode() == f"umbel: {number.name}: to be started again.\n"
    while not (tmp_path / "unharmed").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
