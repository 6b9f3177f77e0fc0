"""What recipes say of memory and hours is what benchmarks/memory.py counts, and that is what a step allocates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from umbel import config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPES = Path(config.__file__).parent / "recipes"
# In a process of its own: the networks without storage must not meet real ones. The profiler's events are torch's own
# record of allocations, which the counting does not look at.
STEP = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
import memory, torch
from pathlib import Path
from step import TrainingStep
from torch.profiler import ProfilerActivity, profile
from umbel.augment.views import ViewsConfig
from umbel.backbones.build import BackboneConfig
from umbel.ssl.head import HeadConfig
from umbel.ssl.optimizer import OptimConfig
from umbel.ssl.pretrain_config import PretrainConfig, TrainConfig

def real(config):
    cpu, again = torch.device("cpu"), config.train.activation_checkpointing
    step = TrainingStep(config, device=cpu, precision="bf16", checkpoint_activations=again)
    memory.set_attention(step.student.backbone, fused=True)
    memory.set_attention(step.teacher.backbone, fused=True)
    seen = memory.views_of_nothing(config, step.patch)
    step(seen)
    networks = [*step.student.parameters(), *step.teacher.parameters()]
    averages = [value for state in step.optimizer.state.values() for value in state.values()]
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in networks + averages)
    del seen
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(memory.views_of_nothing(config, step.patch))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return fixed, fixed + peak

rows = []
for again in (False, True):
    for drop_path in (0.0, 0.25):
        config = PretrainConfig(
            data="d",
            out=Path("o"),
            backbone=BackboneConfig(name="vit_tiny_patch16_224", width=128, depth=4, heads=2, patch=8),
            head=HeadConfig(hidden=256, width=64),
            views=ViewsConfig(global_size=64, local_size=32, local_views=4),
            optim=OptimConfig(drop_path=drop_path),
            train=TrainConfig(batch=16, activation_checkpointing=again),
        )
        fixed, peak = real(config)
        cost = memory.count(config)
        rows.append([again, fixed, cost.fixed, peak, cost.peak])
# The matrices that resize positions are made by whoever comes first.
assert abs(memory.count(config, ranks=2).fixed - cost.fixed - 4 * cost.parameters) < 2**14
print(json.dumps(rows))
"""


def test_the_count_is_what_a_real_step_allocates() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(BENCHMARKS)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    peaks = {}
    for again, fixed, counted_fixed, peak, counted in json.loads(done.stdout.splitlines()[-1]):
        assert counted_fixed == pytest.approx(fixed, rel=0.001)
        # Recomputation that stops early frees a little sooner.
        assert counted == pytest.approx(peak, rel=0.02 if again else 0.001)
        peaks[again] = counted
    assert peaks[True] < 0.6 * peaks[False]


@pytest.mark.slow
def test_recipes_say_what_is_counted() -> None:
    """Memory of each GPU, and hours: run benchmarks/memory.py and write the openings anew if they moved."""
    names = [name for name in config.recipe_names() if "(counted)" in (RECIPES / f"{name}.yaml").read_text()]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "memory.py"), *names],
        capture_output=True,
        text=True,
        timeout=1200,
        check=True,
    )
    rows = {words[0]: words[1:] for words in map(str.split, done.stdout.splitlines()) if words and words[0] in names}
    assert {"paper/vitb16", "paper/vitl16", "vits16", "vitb16", "vitl16", "vitb16-24gb"} <= set(rows) == set(names)
    for name, row in rows.items():
        opening = (RECIPES / f"{name}.yaml").read_text().split("\nformat:")[0].replace("\n#  ", " ")
        peak, hours = float(row[4]), {"H200": float(row[6]), "A100": float(row[7])}
        said = re.search(r"Memory +(\d+) GiB", opening)
        assert said is not None, name
        assert peak - 0.5 <= float(said[1]) <= 1.1 * peak + 0.6, name
        for gpu, counted in hours.items():
            found = re.search(rf"([\d.]+) h on (?:an )?{gpu}", opening)
            if found is not None:
                assert float(found[1]) == pytest.approx(counted, rel=0.06), (name, gpu)
