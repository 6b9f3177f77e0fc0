"""The ablation of the plant paper's policy, end to end: pretraining by every recipe and seed, and its 5-shot accuracy.

python benchmarks/ablation.py OUT [--data SHARDS] [--epochs 2] [--seeds 0 1 2] [--recipes blur no-jitter ...]

Without SHARDS synthetic plants are drawn into OUT. A run is an ordinary run folder below OUT; the same command again
continues what was interrupted and leaves alone what is done. Differences to `plant-paper` are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import measuring
import numpy as np
import torch
from gpu_tables import difference_in_words

BASE = "plant-paper"
FOLDER = Path(__file__).parents[1] / "umbel" / "recipes" / "ablation"
RECIPES = (BASE, *sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != BASE))


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="labeled shards; synthetic plants without")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--draws", type=int, default=50, help="draws of 5 shots")
    parser.add_argument(
        "--override", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run, as train.batch=8"
    )
    options = parser.parse_args()
    print(measuring.in_words(measuring.setting(torch.device("cpu"))))
    data = options.data or str(options.out / "shards")
    if options.data is None:
        umbel("shards", "make", "synthetic", "--out", data)
    found: dict[str, list[float]] = {}
    recipes = [BASE, *(name for name in options.recipes if name != BASE)]
    for seed in options.seeds:
        for name in recipes:
            run = options.out / f"{name}-{seed}"
            umbel(
                *("pretrain", data, "--out", str(run), "--recipe", f"ablation/{name}", "--seed", str(seed)),
                *("--train.epochs", str(options.epochs), "--probe.data", data, "--probe.draws", str(options.draws)),
                *("--probe.every-epochs", str(options.epochs)),
                *(f"--{pair}" for pair in options.override),
            )
            last = json.loads((run / "probes.jsonl").read_text().splitlines()[-1])
            found.setdefault(name, []).append(100 * last["accuracy"])
            print(f"seed {seed}, {name}: 5 shots {found[name][-1]:.1f} % at step {last['step']}", flush=True)
    print("\n" + "\n".join(table(found)))


def umbel(*words: str) -> None:
    """Run a command; what it says stands in the run's own log."""
    done = subprocess.run([sys.executable, "-m", "umbel", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"umbel {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def table(found: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of a Markdown table: accuracy of every recipe, and its difference to the base over seeds."""
    lines = ["| recipe | 5 shots by seed, % | mean | against plant-paper |", "| --- | --- | --- | --- |"]
    for name, values in found.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        told = "" if name == BASE else difference_in_words(np.subtract(values, found[BASE]).tolist())
        lines.append(f"| {name} | {each} | {np.mean(values):.1f} | {told} |")
    return lines


if __name__ == "__main__":
    main()
