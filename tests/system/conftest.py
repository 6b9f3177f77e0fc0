"""A tiny pretraining run in processes of its own, one or two ranks, with faults put in.

They are forked from a process that has torch and timm imported, for that takes longer than their training.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

CHECKOUT = Path(__file__).parents[2]
RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 64, width: 32}
views: {global_size: 32, local_size: 16, local_views: 2}
optim: {warmup_epochs: 1.0, drop_path: 0.2}
reader: {canvas: 64, window: 2}
train: {batch: 8, epochs: 8.0, precision: float32, log_every: 2, save_every: 4}
"""
INJECTED = """
import os, signal, sys, time
{inject}
from umbel.cli import main
sys.exit(main(sys.argv[1:]))
"""
SERVER = """
import json, os, signal, sys
import umbel.ssl.pretrain
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    asked = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        print(child, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with open(asked["code"] + ".tmp", "w") as file:
            file.write(str(code))
        os.rename(asked["code"] + ".tmp", asked["code"])
        os._exit(0)
    os.setsid()
    os.environ.update(asked["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(asked["said"][number - 1], os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["umbel", *asked["arguments"]]
    exec(asked["script"], {"__name__": "__main__"})
"""


class Ended(NamedTuple):
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


class Running:
    """A process of a run: one rank."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder

    def send(self, number: signal.Signals) -> None:
        """Signal this process alone, not its data workers."""
        os.kill(self.pid, number)

    def stopped(self) -> None:
        """Wait until it has stopped itself."""
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.02)

    def wait(self) -> Ended:
        """Wait for its end."""
        deadline = time.monotonic() + 120
        while not (self.folder / "code").exists():
            assert time.monotonic() < deadline, f"it never ended:\n{(self.folder / 'err').read_text()}"
            time.sleep(0.02)
        return Ended(int((self.folder / "code").read_text()), *((self.folder / s).read_text() for s in ("out", "err")))


class Tiny:
    """Starts the runs and reads what they leave."""

    steps = 32  # 36 photographs, 4 whole batches an epoch, 8 epochs

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe, self.photographs = folder / "tiny.yaml", folder / "photographs"
        self.recipe.write_text(RECIPE)
        generator = np.random.default_rng(0)
        for number in range(36):
            path = self.photographs / f"species {number % 3}" / f"photo {number}.jpg"
            path.parent.mkdir(exist_ok=True, parents=True)
            small = generator.integers(0, 255, (6, 5 + number % 4, 3), dtype=np.uint8)
            Image.fromarray(small).resize((50 + number, 60)).save(path)
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
        self.server: subprocess.Popen[str] | None = None
        self.started: list[Running] = []

    def arguments(self, run: Path, *flags: object) -> list[str]:
        """The command's words behind `umbel`."""
        return [*map(str, ("pretrain", self.photographs, "--out", run, "--recipe", self.recipe, *flags))]

    def start(self, run: Path, *flags: object, ranks: int = 1, inject: str = "") -> list[Running]:
        """Start each rank as a plain process, as srun does.

        Args:
            inject: Python that runs first; `os`, `signal`, `sys` and `time` are imported.
        """
        if self.server is None:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = []
        for rank in range(ranks):
            folder = self.folder / f"process-{len(self.started)}"
            folder.mkdir()
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            asked = {
                "environment": {name: str(value) for name, value in environment.items()} if ranks > 1 else {},
                "arguments": self.arguments(run, *flags),
                "script": INJECTED.format(inject=inject),
                "said": [str(folder / "out"), str(folder / "err")],
                "code": str(folder / "code"),
            }
            self.server.stdin.write(json.dumps(asked) + "\n")
            self.server.stdin.flush()
            found.append(Running(int(self.server.stdout.readline()), folder))
            self.started.append(found[-1])
        return found

    def run(self, run: Path, *flags: object, ranks: int = 1, inject: str = "") -> list[Ended]:
        """Start the ranks and wait for all."""
        return [process.wait() for process in self.start(run, *flags, ranks=ranks, inject=inject)]

    def good(self, run: Path, *flags: object, ranks: int = 1, inject: str = "") -> list[Ended]:
        """A run that must end well."""
        ended = self.run(run, *flags, ranks=ranks, inject=inject)
        assert [rank.code for rank in ended] == [0] * ranks, "\n".join(rank.err for rank in ended)
        return ended

    def torchrun(self, run: Path, *flags: object, inject: str = "") -> Ended:
        """Two ranks under torchrun, from nothing."""
        script = self.folder / "injected.py"
        script.write_text(INJECTED.format(inject=inject))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        done = subprocess.run(
            [*launcher, *self.arguments(run, *flags)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def lines(self, run: Path, name: str = "metrics") -> list[dict[str, Any]]:
        """The rows of a log."""
        file = run / f"{name}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def checkpoints(self, run: Path) -> list[int]:
        """The steps of which there are checkpoints; nothing else lies beside them."""
        return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())

    def state(self, run: Path, step: int) -> dict[str, Any]:
        """All tensors of a checkpoint: student, teacher and optimizer."""
        file = run / "checkpoints" / f"step-{step:08d}" / "training.pt"
        told = torch.load(file, map_location="cpu", weights_only=True)
        averages = {f"{n}.{key}": value for n, of in told["optimizer"]["state"].items() for key, value in of.items()}
        return told["student"] | {f"teacher.{name}": value for name, value in told["teacher"].items()} | averages

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            if not (process.folder / "code").exists():
                os.killpg(process.pid, signal.SIGKILL)
        if self.server is not None:
            self.server.communicate()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    made = Tiny(tmp_path_factory.mktemp("tiny"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank from its beginning to its end."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    tiny.good(run)
    return run
