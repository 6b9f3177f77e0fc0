"""Several processes on this machine, by torchrun's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

import psutil

from umbel.launch.launch_config import LaunchConfig
from umbel.run import EXIT_BUG, EXIT_DONE, UserError, say

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def check_gpus(launch: LaunchConfig) -> None:
    """Refuse more GPUs than there are.

    Raises:
        UserError: `launch.gpus` is above what torch finds here.
    """
    import torch

    there = torch.cuda.device_count()
    if launch.gpus is not None and launch.gpus > there:
        found = f"{there} GPU{'s' * (there > 1)}" if there else "no GPU"
        raise UserError(
            f"--launch.gpus {launch.gpus}: this machine has {found} that torch can use; ask for fewer, or "
            "for processes without GPUs by --launch.processes."
        )


def command(argv: Sequence[str]) -> list[str]:
    """What each process runs."""
    return [sys.executable, "-u", "-m", "umbel", *argv]


def run_local(argv: Sequence[str], launch: LaunchConfig) -> int:
    """Run a command in as many processes as asked for and return the exit code of the first that failed.

    Signals are passed on to the processes, which save and end; how long that takes is theirs to say.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig as Elastic
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks speak for themselves
    # As torchrun does: many processes with as many threads each as there are processors stand in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asked = Elastic(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=launch.tasks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    say(f"{launch.tasks} processes on this machine: as asked by --launch local.")
    codes: list[int] = []

    def supervise() -> None:
        try:
            program, *words = command(argv)
            elastic_launch(asked, program)(*words)
            codes.append(EXIT_DONE)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            codes.append(failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode)

    # In a thread of its own, for in the main one the launcher would take the signals and kill after half a minute.
    thread = threading.Thread(target=supervise, name="elastic launcher")
    with _passed_on():
        thread.start()
        while thread.is_alive():
            thread.join(0.2)  # a join without a limit lets no signal through
    return codes[0] if codes else EXIT_BUG


@contextlib.contextmanager
def _passed_on() -> Iterator[None]:
    """Give signals to the ranks alone."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
