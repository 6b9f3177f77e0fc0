"""What distillation is worth: a ViT and a ConvNeXt student with and without their teacher, at equal steps.

python benchmarks/distill.py OUT --data SHARDS --teacher RUN [--seeds 0 1 2] [--epochs 12] [--students vit convnext]

RUN is one of `umbel finetune` on the same classes. A run is an ordinary run folder below OUT; the same command again
continues what was interrupted and leaves alone what is done. All learn from the labeled photographs of the split train,
and accuracies are of the split test. The share of the gap that is closed is (taught - alone) / (teacher - alone), seed
by seed. `--override KEY=VALUE` sets something in every run, `--taught KEY=VALUE` in those with a teacher.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from gpu_tables import T_QUANTILES, difference_in_words

STUDENTS = {
    "vit": (
        *("--student", "vit_tiny_patch16_224", "--backbone.width", "96", "--backbone.depth", "6"),
        *("--backbone.heads", "3", "--backbone.patch", "8"),
    ),
    "convnext": ("--student", "convnext_atto"),
}
KINDS = {"alone": ("--loss.no-teach",), "taught": ()}
TAUGHT = ("loss.pooled=1", "loss.patches=1", "loss.logits=0.9", "loss.labels=0.5")
SETTINGS = ("views.size=64", "reader.canvas=128", "train.batch=32", "optim.learning_rate=0.01", "photographs=labeled")
MEASURES = {"top1": "top-1", "macro_top1": "macro top-1", "few_shot": "5-shot"}
Found = Mapping[tuple[str, str, str], Sequence[float]]
"""By student, kind and measure: in percent, a value a seed."""


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True, help="labeled shards with the splits train and test")
    parser.add_argument("--teacher", required=True, help="a run of umbel finetune")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--taught", nargs="*", default=TAUGHT, metavar="KEY=VALUE", help="of the runs with a teacher")
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE", help="of every run")
    options = parser.parse_args()
    print(measuring.in_words(measuring.setting(torch.device("cpu"))))
    told: dict[tuple[str, str, str], list[float]] = {}
    teacher = {"few_shot": few_shot_of_the_teacher(options.teacher, options.data, options.out)}
    for seed in options.seeds:
        for student in options.students:
            for kind in KINDS:
                run = options.out / f"{student}-{kind}-{seed}"
                settings = [*SETTINGS, *(options.taught if kind == "taught" else ()), *options.override]
                umbel(
                    *("distill", options.teacher, *STUDENTS[student], "--data", options.data, "--out", str(run)),
                    *("--seed", str(seed), "--train.epochs", str(options.epochs), *KINDS[kind]),
                    *(word for pair in settings for word in as_flag(pair)),
                )
                result = json.loads((run / "result.json").read_text())
                test = result["splits"]["test"]
                teacher |= {name: 100 * test["teacher"][name]["value"] for name in ("top1", "macro_top1")}
                for measure, value in measured(result).items():
                    told.setdefault((student, kind, measure), []).append(value)
                row = ", ".join(f"{MEASURES[name]} {value:.1f} %" for name, value in measured(result).items())
                print(f"seed {seed}, {student}, {kind}: {row} at step {result['step']}", flush=True)
    print("\n" + "\n".join(table(told, teacher)) + "\n\n" + "\n".join(gaps(told, teacher)))


def few_shot_of_the_teacher(teacher: str, data: str, out: Path) -> float:
    """Its 5-shot accuracy in percent, by the students' protocol."""
    file = out / "teacher.json"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        asked = ("--shots", "5", "--draws", "50", "--no-baselines", "--out", str(file))
        umbel("probe", teacher, "--data", data, *asked)
    return 100 * float(json.loads(file.read_text())["rows"][0]["mean"])


def umbel(*words: str) -> None:
    """Run a command; what it says stands in the run's own log."""
    done = subprocess.run([sys.executable, "-m", "umbel", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"umbel {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def as_flag(pair: str) -> tuple[str, str]:
    """KEY=VALUE as a flag and its word."""
    key, _, value = pair.partition("=")
    return f"--{key.replace('_', '-')}", value


def measured(result: Mapping[str, Any]) -> dict[str, float]:
    """A run's measures in percent."""
    own = result["splits"]["test"]["student"]
    return {name: 100 * own[name]["value"] for name in ("top1", "macro_top1")} | {
        "few_shot": 100 * result["few_shot"]["accuracy"]
    }


def table(found: Found, teacher: Mapping[str, float]) -> list[str]:
    """Lines of a Markdown table: every measure of every student by seed, and the teacher's."""
    lines = ["| student | learns from | measure | by seed, % | mean |", "| --- | --- | --- | --- | --- |"]
    for (student, kind, measure), values in sorted(found.items(), key=lambda item: (item[0][0], item[0][2])):
        source = "labels alone" if kind == "alone" else "teacher and labels"
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {student} | {source} | {MEASURES[measure]} | {each} | {statistics.fmean(values):.1f} |")
    lines += [f"| the teacher | | {MEASURES[name]} | {value:.1f} | {value:.1f} |" for name, value in teacher.items()]
    return lines


def gaps(found: Found, teacher: Mapping[str, float]) -> list[str]:
    """What the teacher adds, and which share of the gap to it that closes, both paired by seed."""
    lines = []
    for student in dict.fromkeys(name for name, _, _ in found):
        for measure, words in MEASURES.items():
            alone, taught = (found[student, kind, measure] for kind in KINDS)
            differences = [b - a for a, b in zip(alone, taught, strict=True)]
            lines.append(f"{student}, {words}: {difference_in_words(differences)}")
            shares = [100 * d / (teacher[measure] - a) for d, a in zip(differences, alone, strict=True)]
            lines.append(f"{student}, {words}: {mean_in_words(shares)} of the gap to the teacher is closed.")
    return lines


def mean_in_words(values: Sequence[float]) -> str:
    """A mean in percent with its 95 % interval over seeds."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return f"{mean:.0f} % (one seed)"
    half = T_QUANTILES[min(n - 1, max(T_QUANTILES))] * statistics.stdev(values) / n**0.5
    return f"{mean:.0f} ± {half:.0f} % (95 % interval, {n} seeds)"


if __name__ == "__main__":
    main()
