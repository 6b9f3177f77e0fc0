"""All of Umbel's measurements and checks that need a GPU, as ranked tasks of minutes that can be cut off and resumed.

python benchmarks/gpu_suite.py --out DIR [--minutes 9] [--data SHARDS] [--only NAME ...] [--list] [--retry]

After every task DIR holds results.json and tables.md. A task with a result is not run again, one that failed only
with --retry; one that was cut off is, and so is one that this Umbel has no code for.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
from gpu_tables import tables
from gpu_tasks import Task, tasks

from umbel.run import UserError, read_json, write_atomic

TOLD = 15
"""Last lines of a failed task's output that are kept."""
TINY_MINUTES = 0.5
TINY_LIMIT = 15.0
"""Minutes: what is tiny runs on whatever machine."""
MARGIN_SECONDS = 10.0
"""What of --minutes is kept for writing the tables."""


def main() -> int:
    """Run what is to be run; 1 where a task failed or a check found an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for results.json and tables.md")
    parser.add_argument("--work", type=Path, help="folder for shards, runs and logs; DIR/work by default")
    parser.add_argument("--minutes", type=float, help="start no task whose estimate does not fit into what is left")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of tasks; * and ? stand for anything")
    parser.add_argument("--list", action="store_true", help="print the tasks and what became of them")
    parser.add_argument("--retry", action="store_true", help="run tasks that failed again")
    parser.add_argument("--data", help="labeled shards (Oxford 102 Flowers for the policies); plants are drawn without")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few steps: does all of it run?")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        chosen = [task for task in tasks() if any(fnmatch.fnmatch(task.name, name) for name in options.only)]
        if not chosen:
            raise UserError(f"--only {' '.join(options.only)} names no task: --list prints the names.")
        if options.list:
            print_list(chosen, Results(options.out).tasks if options.out else {})
            return 0
        if options.out is None:
            raise UserError("--out is missing: the folder for results.json and tables.md.")
        options.work = options.work or options.out / "work"
        if options.child:
            return run_child(options)
        refuse_missing(options.device)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return run_all(chosen, options)
    except UserError as error:
        print(f"gpu_suite: {error}", file=sys.stderr)
        return error.exit_code


def refuse_missing(device: str) -> None:
    """Say once, and not for every task, that there is no GPU.

    Raises:
        UserError: it is not there.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("this machine has no CUDA device that torch can use: --device cpu --tiny tries the suite.")


class Results:
    """results.json: what became of every task, by its name."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file = out / "results.json"
        self.tasks: dict[str, dict[str, Any]] = {}
        if self.file.is_file():
            self.tasks = read_json(self.file, "the suite's results")["tasks"]

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result and write the tables anew."""
        self.tasks[name] = result
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, json.dumps({"format": 1, "tasks": self.tasks}, indent=1) + "\n")
        write_atomic(self.out / "tables.md", tables(self.tasks))

    def wants(self, name: str, retry: bool) -> bool:
        """Whether a task is to be run."""
        state = self.tasks.get(name, {}).get("state")
        return state in (None, "skipped") or (state == "failed" and retry)


def print_list(chosen: list[Task], results: dict[str, dict[str, Any]]) -> None:
    """A line for each task."""
    for task in chosen:
        print(f"{task.name:<28} {task.minutes:4.1f} min  {results.get(task.name, {}).get('state', '')}".rstrip())


def run_all(chosen: list[Task], options: argparse.Namespace) -> int:
    """Run the tasks in their order, each that is wanted and fits."""
    results = Results(options.out)
    end = time.monotonic() + 60 * options.minutes - MARGIN_SECONDS if options.minutes is not None else math.inf
    wanted = [task for task in chosen if results.wants(task.name, options.retry)]
    print(f"{len(wanted)} of {len(chosen)} tasks are to be run.", flush=True)
    for task in wanted:
        minutes, left = TINY_MINUTES if options.tiny else task.minutes, (end - time.monotonic()) / 60
        if minutes > left:
            print(f"{task.name}: {minutes:g} min do not fit into {max(left, 0):.1f}.", flush=True)
            continue
        # A task may take twice its estimate and a minute; that it is cut off before is no fault of its own.
        limit = 60 * (TINY_LIMIT if options.tiny else 2 * minutes + 1)
        result = run(task, options, min(limit, 60 * left))
        if result["state"] == "cut off" and limit > 60 * left:
            print(f"{task.name}: cut off after {result['seconds']:.0f} s; the next start runs it again.", flush=True)
            continue
        result["state"] = "failed" if result["state"] == "cut off" else result["state"]
        results.add(task.name, result)
        print(f"{task.name}: {result['state']} after {result['seconds']:.0f} s.", flush=True)
        for line in result.get("error", ())[-3:]:
            print(f"  {line}", flush=True)
    bad = [name for name, result in results.tasks.items() if is_bad(result)]
    print(f"tables: {options.out / 'tables.md'}" + (f"; look at {', '.join(bad)}" if bad else ""), flush=True)
    return 1 if bad else 0


def is_bad(result: dict[str, Any]) -> bool:
    """A task that failed, or a check that found an error."""
    return result["state"] == "failed" or any(row.get("ok") is False for row in result.get("rows", ()))


def run(task: Task, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run one task in a process of its own, for `limit` seconds at most."""
    log, answer = options.work / "logs" / f"{task.name}.log", options.work / "logs" / f"{task.name}.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    answer.unlink(missing_ok=True)
    given = ["--out", options.out, "--work", options.work, "--device", options.device]
    given += ["--data", options.data] if options.data else []
    given += ["--tiny"] if options.tiny else []
    command = [sys.executable, __file__, "--child", task.name, "--answer", answer, *given]
    checkout = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    started, state = time.monotonic(), "failed"
    with log.open("w") as file:
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "10000"}
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            state = "cut off"
            file.write(f"\nstopped after {limit:.0f} s\n")
        finally:
            end(process)
    told: dict[str, Any] = {"seconds": time.monotonic() - started, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if answer.is_file():
        return told | json.loads(answer.read_text())
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return told | {"state": state, "error": lines[-TOLD:]}


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it started: what is left of it would disturb the next task."""
    family: list[psutil.Process] = []
    try:
        parent = psutil.Process(process.pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        pass
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def run_child(options: argparse.Namespace) -> int:
    """The task itself; its answer appears whole or not at all."""
    from gpu_context import Context, SkippedError

    task = next(task for task in tasks() if task.name == options.child)
    context = Context.of(options.device, tiny=options.tiny, data=options.data, work=options.work)
    module, function = task.call.split(":")
    try:
        rows = getattr(importlib.import_module(module), function)(context, **task.settings)
        result = {"state": "done", "setting": context.setting(), "rows": rows}
    except SkippedError as reason:
        result = {"state": "skipped", "setting": context.setting(), "rows": [], "reason": str(reason)}
    except Exception:
        traceback.print_exc()
        return 1
    write_atomic(options.answer, json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
