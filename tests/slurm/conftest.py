"""A tiny pretraining run as jobs of a real cluster (`make test-slurm` starts one), and what disturbs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from umbel.launch.batch import show_job
from umbel.launch.job_state import JobState, states
from umbel.launch.launch_config import LaunchConfig
from umbel.launch.slurm import submit

CHECKOUT = Path(__file__).parents[2]
STEPS = 24
RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.0}
reader: {canvas: 64, window: 2, workers: 0}
train: {batch: 8, epochs: 3.0, precision: float32, log_every: 1, save_every: 4}
"""
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "UNKNOWN")
# Of a row in the log: what does not depend on the speed of the machine.
TERMS = ("step", "loss", "image_loss", "compression", "expansion", "patch_loss", "grad_norm_backbone", "learning_rate")


def wait_for(what: Callable[[], Any], seconds: float = 150.0, pause: float = 0.3) -> Any:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(pause)
    return answer


class Cluster:
    """The cluster, and a small run to be sent there."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.sent: list[str] = []
        self.environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        self.recipe = folder / "tiny.yaml"
        self.recipe.write_text(RECIPE)
        self.plants = folder / "plants"
        drawn = self.umbel(
            "shards", "make", "synthetic", "--out", self.plants, "--train", 64, "--test", 8, "--size", 64
        )
        assert drawn.returncode == 0, drawn.stderr

    def umbel(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run the command here."""
        command = [sys.executable, "-m", "umbel", *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def words(self, run: Path, *more: object) -> list[str]:
        """`pretrain ...` into a folder."""
        return ["pretrain", str(self.plants), "--out", str(run), "--recipe", str(self.recipe), *map(str, more)]

    def pretrain(self, run: Path, *more: object, **launch: Any) -> str:
        """Submit a run; returns the job."""
        return self.submit(self.words(run, *more), run, **launch)

    def submit(self, words: list[str], folder: Path, *, name: str = "test", **launch: Any) -> str:
        """Submit any command."""
        asked = {"setup": ("export OMP_NUM_THREADS=1",), "hours": 0.5} | launch
        job = submit(words, LaunchConfig(where="slurm", **asked), folder=folder, name=name)
        self.sent.append(job)
        return job

    def submit_after(self, words: list[str], folder: Path, before: list[str]) -> str:
        """Submit a command that runs once others have ended well."""
        asked = LaunchConfig(where="slurm", hours=0.2)
        self.sent.append(submit(words, asked, folder=folder, name="after", after=before))
        return self.sent[-1]

    def state(self, job: str) -> JobState:
        return states([job])[job]

    def wait(self, job: str, seconds: float = 240.0) -> JobState:
        """Wait until a job is over."""
        found: JobState = wait_for(lambda: (s := self.state(job)).state in OVER and s, seconds)
        return found

    def good(self, job: str, run: Path, seconds: float = 240.0) -> None:
        """Wait for a job that must end well."""
        found = self.wait(job, seconds)
        assert found.state == "COMPLETED", f"{found}\n{self.log(run, job)}"

    def log(self, run: Path, job: str, kind: str = "err") -> str:
        """What a job said."""
        return "".join(path.read_text() for path in sorted((run / "launch").glob(f"{job}_*_log.{kind}")))

    def at_checkpoint(self, run: Path, step: int = 4) -> list[int]:
        """Wait for a checkpoint, and halt the run there; returns its processes."""

        def halt() -> list[int]:
            if not any(int(path.name[5:]) >= step for path in run.glob("checkpoints/step-????????")):
                return []
            found = self.processes(run)
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
            return found

        found: list[int] = wait_for(halt, pause=0.01)
        assert not (run / f"checkpoints/step-{STEPS:08d}").exists(), "it was over before it could be disturbed"
        return found

    def shown(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        return show_job(job)

    def restart_count(self, job: str) -> int:
        return int(self.shown(job)["Restarts"])

    def wait_until(self, what: Callable[[], Any]) -> None:
        wait_for(what)

    def go_on(self, processes: list[int]) -> None:
        """Let halted processes go on."""
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def processes(self, run: Path) -> list[int]:
        """The ranks of a run's jobs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"submitit.core._submit" in words and str(run / "launch").encode() in words and b"bash" not in words:
                    found.append(int(folder.name))
        return [pid for pid in found if b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]

    def start(self) -> None:
        """Bring back daemons that were killed."""
        starter = [str(CHECKOUT / "tests/slurm/start_slurm.sh"), str(self.root)]
        subprocess.run(starter, check=True, capture_output=True, timeout=120)

    def kill(self, daemon: str) -> None:
        """SIGKILL a daemon by the file that holds its number."""
        os.kill(int((self.root / f"{daemon}.pid").read_text()), signal.SIGKILL)

    def rows(self, run: Path) -> list[dict[str, Any]]:
        """The log of a run without what depends on speed."""
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{name: row[name] for name in TERMS} for row in rows]

    def starts(self, run: Path) -> list[dict[str, Any]]:
        """What the run folder records of its starts."""
        found: list[dict[str, Any]] = json.loads((run / "run.json").read_text())["starts"]
        return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = os.environ.get("UMBEL_SLURM")
    if root is None:
        pytest.skip("no SLURM cluster for tests: `make test-slurm` starts one (Debian, root)")
    os.environ["SLURM_CONF"] = f"{root}/slurm.conf"
    made = Cluster(Path(root), tmp_path_factory.mktemp("cluster"))
    yield made
    if made.sent:
        subprocess.run(["scancel", *made.sent], capture_output=True)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster) -> list[dict[str, Any]]:
    """The log of one process from the beginning to the end."""
    run = cluster.folder / "undisturbed"
    done = cluster.umbel(*cluster.words(run))
    assert done.returncode == 0, done.stderr
    rows = cluster.rows(run)
    assert rows[-1]["step"] == STEPS
    return rows
