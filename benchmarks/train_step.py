"""What a training step costs beside its lower bound and beside lightly's parts, in one run, all taking turns.

python benchmarks/train_step.py [--sizes demo vits16] [--precision bf16 float32] [--json FILE]

Views are made (noise), drop path is 0. The bound is the teacher's forward pass and the student's forward and backward
passes of the same views as training calls them (class tokens and masked patches through the head), under the sum of
the outputs times fixed noise; a second one leaves the heads out. The step adds losses, clipping, AdamW, the teacher's
average, schedules, terms and the check of their finiteness.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
from mask_cost import decoding_seconds, mask_seconds, photographs
from step import TrainingStep, random_views
from step_bounds import LOG_LINE, bound_with_heads, bound_without_heads, parts_alone
from torch import Tensor

from umbel.backbones.build import build
from umbel.config import from_values, read_recipe
from umbel.machine import choose_device, choose_precision
from umbel.ssl.network import set_attention
from umbel.ssl.pretrain_config import PretrainConfig

BATCHES = {"vits16": 4}
"""Photographs of a batch, where a recipe's own would take a CPU too long; --batch is for all."""
PROTOTYPES = 65_536
AIM = 1.1
STEP, BOUND, BARE = "whole step", "bound: both networks", "bound without heads"
LIGHTLY = {"lightly parts, SimDINOv2 losses": "simdino", "lightly parts, its DINOv2 losses": "dinov2"}


def main() -> None:
    """Measure every size in every precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["demo", "small-cpu", "vits16"], help="recipes, by name or file")
    parser.add_argument("--precision", nargs="+", choices=["bf16", "float32"], help="both where bf16 is native")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, help="photographs of a batch; that of the recipe, and 4 for vits16")
    parser.add_argument("--rounds", type=int, default=9, help="steps of every contender, in turn; medians count")
    parser.add_argument(
        "--processor-time", action="store_true", help="count processor time, which other work disturbs less (CPU)"
    )
    parser.add_argument("--prototypes", type=int, default=PROTOTYPES, help="outputs of lightly's DINOv2 head")
    parser.add_argument("--data", help="shards whose photographs are decoded; plants of 500 px are drawn without")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    device = torch.device(choose_device(options.device).value)
    native = choose_precision("auto", device.type).value
    where = measuring.setting(device)
    if (installed := measuring.version_of("lightly")) is not None:
        where["libraries"]["lightly"] = installed
    print(measuring.in_words(where))
    if importlib.util.find_spec("lightly") is None:
        print("lightly is not installed: `pip install --no-deps lightly` puts it beside Umbel; going on without it.")
    results = []
    for size in options.sizes:
        for precision in options.precision or sorted({native, "float32"}):
            results.append(measure(size, precision, device, options))
            report(results[-1])
    masks = measure_masks(options.data, results)
    if options.json:
        options.json.write_text(json.dumps({"format": 1, **where, "steps": results, "masks": masks}, indent=1) + "\n")


def configured(size: str, batch: int | None) -> PretrainConfig:
    """A recipe's configuration, with another batch where one is given."""
    config = from_values(PretrainConfig(data="", out=Path()), read_recipe(size, "pretrain"), size)
    train = dataclasses.replace(config.train, batch=batch or config.train.batch)
    return dataclasses.replace(config, train=train)


def measure(size: str, precision: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the contenders, and of the step's parts."""
    config = configured(size, options.batch or BATCHES.get(size))
    torch.manual_seed(0)
    backbone = build(config.backbone, config.views.global_size)
    ours = TrainingStep(config, device=device, precision=precision, drop_path=0.0, backbone=copy.deepcopy(backbone))
    seen = random_views(config, ours.patch, device)
    clock = time.process_time if options.processor_time else time.perf_counter
    marked: dict[str, measuring.Phases] = {}
    contenders: dict[str, Callable[[], object]] = {
        STEP: lambda: ours(seen),
        BOUND: bound_with_heads(ours, seen),
        BARE: bound_without_heads(ours, seen),
    }
    parts = parts_alone(ours, seen)
    contenders |= parts

    def with_marks(name: str, step: Callable[..., Tensor]) -> None:
        phases = marked[name] = measuring.Phases(device, clock)

        def run() -> None:
            phases.begin()
            last.append(step(seen, phases))

        contenders[name] = lambda: last.append(step(seen))
        contenders[f"{name}, marked"] = run

    last: list[Tensor] = []
    with_marks(STEP, ours)
    if importlib.util.find_spec("lightly") is not None:
        for name, step in lightly_steps(backbone, config, ours, options.prototypes, precision).items():
            with_marks(name, step)
    seconds = measuring.in_turn(contenders, rounds=options.rounds, device=device, clock=clock)
    if not torch.stack([loss.float().cpu() for loss in last]).isfinite().all() or ours.bad_steps:
        raise SystemExit("a step was not finite: its time tells nothing.")
    found = measuring.medians(seconds)
    return {
        "size": size,
        "precision": precision,
        "batch": config.train.batch,
        "attention": ours.attention,
        "prototypes": options.prototypes,
        "masked patches": len(seen.masked),
        "clock": clock.__name__,
        "seconds": found,
        "ratios": {name: measuring.ratio(seconds, STEP, name) for name in found if name in (BOUND, BARE)}
        | {name: measuring.ratio(seconds, name, STEP) for name in marked if name != STEP},
        "parts": {name: found[name] for name in parts},
        "phases": {name: measuring.medians(phases.seconds) for name, phases in marked.items()},
        "all": seconds,
    }


def lightly_steps(
    backbone: Any, config: PretrainConfig, ours: TrainingStep, prototypes: int, precision: str
) -> dict[str, Callable[..., Tensor]]:
    """Both methods with timm's default attention kernel; where Umbel chose another one, SimDINOv2's with that too."""
    from lightly_parts import LightlyStep

    def made(losses: str) -> LightlyStep:
        return LightlyStep(
            copy.deepcopy(backbone),
            config,
            losses=losses,
            prototypes=prototypes if losses == "dinov2" else 2,
            device=ours.device,
            precision=precision,
        )

    steps = {name: made(losses) for name, losses in LIGHTLY.items()}
    if ours.attention != "fused":
        name = next(iter(LIGHTLY))
        steps[f"{name}, {ours.attention} attention"] = step = made(LIGHTLY[name])
        for half in (step.student, step.teacher):
            set_attention(half, fused=False)
    return dict(steps)


def measure_masks(data: str | None, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a photograph's masks cost in a data worker, beside decoding it and beside its fastest step."""
    jpgs = photographs(data)
    decoding = decoding_seconds(jpgs)
    kilobytes = statistics.mean(map(len, jpgs)) / 1000
    print(f"\nmasks, one thread; decoding a photograph of {kilobytes:.0f} kB takes {1e6 * decoding:.0f} us")
    rows = []
    for size in dict.fromkeys(result["size"] for result in results):
        of_size = [result for result in results if result["size"] == size]
        config = configured(size, of_size[0]["batch"])
        step = min(result["seconds"][STEP] for result in of_size) / config.train.batch
        drawing = mask_seconds(config, config.backbone.patch or 16)
        rows.append({"size": size, "masks": drawing, "decoding": decoding, "step": step})
        print(
            f"{size:<12} {1e6 * drawing:5.0f} us a photograph: {drawing / decoding:.1%} of decoding it, "
            f"{drawing / step:.1%} of its step ({1e6 * step:.0f} us)"
        )
    return rows


def report(result: dict[str, Any]) -> None:
    """Print a size's tables."""
    seconds, ratios, phases = result["seconds"], result["ratios"], result["phases"]
    step = seconds[STEP]
    clock = ", processor time" if result["clock"] == "process_time" else ""
    print(
        f"\n{result['size']}, {result['precision']}, batch {result['batch']}, {result['attention']} attention, "
        f"{result['masked patches']} masked patches: {1e3 * step:.1f} ms, {result['batch'] / step:.3g} images/s{clock}"
    )
    verdict = "met" if ratios[BOUND] <= AIM else "missed"
    print(f"{BOUND:<45} {1e3 * seconds[BOUND]:9.1f} ms   step / bound {ratios[BOUND]:.3f} (aim {AIM}: {verdict})")
    print(f"{BARE:<45} {1e3 * seconds[BARE]:9.1f} ms   step / bound {ratios[BARE]:.3f}")
    extras = (
        "schedules",
        "clipping",
        "flags",
        "optimizer",
        "teacher's average",
        "gradients freed",
        "sums and outcomes",
    )
    alone = result["parts"] | {name: phases[STEP][name] for name in extras}
    for name, value in alone.items():
        note = " (at log points alone)" if name == LOG_LINE else ""
        print(f"  {name:<43} {1e3 * value:9.2f} ms   {value / step:6.1%} of the step{note}")
    if len(phases) == 1:
        return
    letters = dict(zip(phases, ["Umbel", *(f"({letter})" for letter in "abcdef")], strict=False))
    for name, letter in letters.items():
        if name != STEP:
            note = f" ({result['prototypes']} prototypes)" if LIGHTLY.get(name) == "dinov2" else ""
            print(f"{letter} {name + note:<55} {1e3 * seconds[name]:9.1f} ms   {ratios[name]:.2f} times Umbel's step")
    print(f"  {'ms by phase':<20}" + "".join(f"{letter:>10}" for letter in letters.values()))
    for phase in dict.fromkeys(phase for of_one in phases.values() for phase in of_one):
        values = [f"{1e3 * of_one[phase]:.2f}" if phase in of_one else "-" for of_one in phases.values()]
        print(f"  {phase:<20}" + "".join(f"{value:>10}" for value in values))


if __name__ == "__main__":
    main()
