"""What submitit runs in every task of a job: the command, in this process."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from dataclasses import dataclass
from types import FrameType

from umbel.run import EXIT_REQUEUE


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, to be called once on a node; it is stored by name and so is read with the code of the job."""

    argv: tuple[str, ...]
    """The words behind `umbel`."""

    def __call__(self) -> None:
        """Run the command and end the process with its exit code.

        Raises:
            SystemExit: always.
        """
        # In place of submitit's handlers, which would put the job back in the queue from here, unsaved. A command that
        # saves at a signal sets its own for that time. Processes that are forked inherit these and let signals pass.
        own = os.getpid()

        def leave(number: int, _: FrameType | None) -> None:
            if os.getpid() == own:
                print(f"umbel: {signal.Signals(number).name}: to be started again.", file=sys.stderr, flush=True)
                raise SystemExit(EXIT_REQUEUE)

        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, leave)
        sys.argv = ["umbel", *self.argv]
        # Nothing imports the command: it is started as every launcher does it.
        runpy.run_module("umbel", run_name="__main__", alter_sys=True)
