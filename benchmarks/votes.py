"""Votes to labels, measured: time and peak memory of Umbel's strategies and commands beside crowd-kit, in one run.

Votes are simulated (`umbel votes simulate`) at three sizes, the largest that of Pl@ntNet-CrowdSWE: 9 million votes on
6.7 million observations. Each contender runs in a process of its own, so that the peak of memory is its own; where a
contender would need more than --limit GB it is stopped. Ratios are those of processor time, which other work on the
machine hardly changes. crowd-kit is measured if it is installed (pip install
crowd-kit); it builds a table of all observations by all species.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from umbel.data.votes import STRATEGIES, aggregate
from umbel.data.votes.simulate import CrowdConfig, simulate
from umbel.data.votes.simulate_command import write_crowd
from umbel.run import processors

CROWDSWE = {"observations": 6_699_593, "users": 823_251, "species": 11_425, "extra_votes": 0.285}
VOTES = 9_005_108
COMMANDS = ("votes.parquet", "votes.csv", "answers.json")
COLUMNS = ("observation", "user", "label", "author")


def prepare(folder: Path, share: float) -> None:
    """Simulate a share of CrowdSWE into a folder, in all formats."""
    sizes = {name: max(round(share * CROWDSWE[name]), 1) for name in ("observations", "users")}
    crowd = simulate(CrowdConfig(**sizes, species=int(CROWDSWE["species"]), extra_votes=CROWDSWE["extra_votes"]))
    for name in COLUMNS:
        np.save(folder / f"{name}.npy", getattr(crowd, name).astype(np.int32))
    write_crowd(crowd, folder, "parquet")
    write_crowd(crowd, folder, "csv")
    last = -1
    with (folder / "answers.json").open("w") as file:
        rows = zip(crowd.observation.tolist(), crowd.user.tolist(), crowd.label.tolist(), strict=True)
        for observation, user, label in rows:
            opening = "{" if last < 0 else "}, "
            file.write(
                f', "{user}": {label}' if observation == last else f'{opening}"{observation}": {{"{user}": {label}'
            )
            last = observation
        file.write("}}")
    (folder / "authors.txt").write_text("\n".join(map(str, crowd.author.tolist())) + "\n")


def contender(name: str, folder: Path) -> Callable[[], Any]:
    """What is timed; loading arrays and importing libraries is not, but reading files by a command is."""
    maker, _, what = name.partition(" ")
    if maker == "command":
        from umbel.cli import main

        out = folder / "out"
        authors = ["--authors", str(folder / "authors.txt")] if what.endswith(".json") else []
        command = ["votes", "aggregate", str(folder / what), *authors, "--out", str(out), "--force"]
        return lambda: _quietly(lambda: main(command))
    columns = {column: np.load(folder / f"{column}.npy") for column in COLUMNS}
    if maker == "umbel":
        votes = [columns[column] for column in COLUMNS[:3]]
        return lambda: aggregate(*votes, authors=columns["author"], strategy=what)  # type: ignore[arg-type]
    import pandas
    from crowdkit.aggregation import MajorityVote
    from crowdkit.aggregation.utils import get_accuracy

    table = pandas.DataFrame({"task": columns["observation"], "worker": columns["user"], "label": columns["label"]})
    if what == "majority":
        return lambda: MajorityVote().fit_predict(table)
    # Its class Wawa fails a check of scikit-learn 1.9; these are its steps.
    return lambda: MajorityVote().fit_predict(
        table, get_accuracy(table, MajorityVote().fit(table).labels_, by="worker")
    )


def _quietly(run: Callable[[], int]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert run() == 0


def child(name: str, folder: Path, limit: float, repeats: int) -> None:
    """Run one contender and print what it took, best of the repeats."""
    resource.setrlimit(resource.RLIMIT_AS, (int(limit * 1e9),) * 2)
    try:
        run = contender(name, folder)
        before, times = peak(), []
        for _ in range(repeats):
            start, busy = time.perf_counter(), time.process_time()
            run()
            times.append((time.perf_counter() - start, time.process_time() - busy))
    except MemoryError:
        print(json.dumps({"failed": f"more than {limit:g} GB"}))
        return
    seconds, busy = (min(taken) for taken in zip(*times, strict=True))
    print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak(), "before": before}))


def peak() -> float:
    """Greatest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(name: str, folder: Path, limit: float, repeats: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, str(folder), str(limit), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return {"failed": (done.stderr.splitlines() or ["no reason given"])[-1][:60]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def commit() -> str:
    """The checked-out commit, or "none"."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def main() -> None:
    """Measure everything and print one table a size."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
        return
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, nargs="+", default=[30_000, 300_000, 9_000_000], help="sizes")
    parser.add_argument("--limit", type=float, default=8.0, help="memory of a contender in GB")
    options = parser.parse_args()
    rivals = ["majority", "wawa"] if importlib.util.find_spec("crowdkit") else []
    names = [f"umbel {name}" for name in STRATEGIES] + [f"crowd-kit {name}" for name in rivals]
    names += [f"command {name}" for name in COMMANDS]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow", "ijson"))
    machine = f"{processors()} processors ({platform.machine()}), python {platform.python_version()}"
    print(f"{machine}, {libraries}, commit {commit()}")
    print(f"crowd-kit {version('crowd-kit')}" if rivals else "crowd-kit is not installed: pip install crowd-kit")
    for votes in options.votes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            subprocess.run([sys.executable, __file__, "--prepare", scratch, str(votes / VOTES)], check=True)
            count = len(np.load(folder / "user.npy", mmap_mode="r"))
            print(f"\n{count:,} votes\n| {'':<28} | seconds | CPU s | of plantnet | peak MB | before it |")
            rows = {name: measure(name, folder, options.limit, 3 if votes < 1_000_000 else 1) for name in names}
            reference = rows["umbel plantnet"].get("busy", float("nan"))
            for name, row in rows.items():
                if "failed" in row:
                    print(f"| {name:<28} | {row['failed']}")
                    continue
                times = f"{row['seconds']:>7.2f} | {row['busy']:>5.2f} | {row['busy'] / reference:>11.2f}"
                print(f"| {name:<28} | {times} | {row['peak']:>7.0f} | {row['before']:>9.0f} |")


if __name__ == "__main__":
    main()
