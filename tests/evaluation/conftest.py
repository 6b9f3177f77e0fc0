"""Commands in processes of their own, which tests kill at any moment, or start as ranks."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
# Forked from a process that has torch imported but has not computed: each answer is how the commands ended.
SERVER = """
import contextlib, json, os, signal, sys
import accelerate, timm, umbel.evaluation.embed
from umbel.cli import main

def killing(number):
    left, fsync = iter(range(number)), os.fsync
    def fsync_or_die(descriptor):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
    os.fsync = fsync_or_die

answers = sys.stdout.fileno()
for line in sys.stdin:
    children = []
    for job in json.loads(line):
        child = os.fork()
        if not child:
            os.environ.update(job["environment"])
            for number in (1, 2):
                os.dup2(os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            exec(job["inject"])
            if job["kill"] is not None:
                killing(job["kill"])
            code = main(job["arguments"])
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.write(answers, (json.dumps(codes) + chr(10)).encode())
"""
Forked = Callable[..., tuple[list[int], str]]


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def forked(server: subprocess.Popen[str], tmp_path: Path, own_cache: Path) -> Forked:
    """Run a command: `ranks` processes of it, killed at the fsync of number `kill`; exit codes, and what all said.

    `inject` has code that a rank runs first.
    """
    log = tmp_path / "said.txt"

    def start(
        words: Sequence[object], ranks: int = 1, kill: int | None = None, inject: Any = None
    ) -> tuple[list[int], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        jobs = []
        for rank in range(ranks):
            several = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} | meeting
            environment = {"XDG_CACHE_HOME": str(own_cache)} | (several if ranks > 1 else {})
            job = {"environment": environment, "said": str(log), "kill": kill, "arguments": [*map(str, words)]}
            jobs.append(job | {"inject": (inject or {}).get(rank, "")})
        log.write_text("")
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(jobs) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline()), log.read_text()

    return start
