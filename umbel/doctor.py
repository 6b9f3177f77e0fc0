"""`umbel doctor`: what this machine has, and what Umbel will use of it."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from umbel import __version__
from umbel.machine import (
    GIB,
    choose_attention,
    choose_device,
    choose_precision,
    choose_workers,
    device_memory,
    matmul_rate,
)
from umbel.run import processors
from umbel.run_folder import LIBRARIES

SLURM_SECONDS = 10
"""In which a cluster must answer."""
EXTRAS = {
    "search": "faiss",
    "lora": "peft",
    "text": "open_clip",
    "onnx": "onnxruntime",
    "tensorboard": "tensorboard",
    "serve": "starlette",
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Say what this machine has and what Umbel will use of it."""

    json: bool = False
    """Print JSON."""


def run(config: DoctorConfig) -> None:
    """Print versions, device, precision, speed, memory, disk and what is installed beside."""
    facts = examine()
    if config.json:
        print(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def examine() -> dict[str, Any]:
    """The facts, by name."""
    device = choose_device("auto")
    precision = choose_precision("auto", device.value)
    workers = choose_workers(-1, 1)
    attention = choose_attention(device.value, precision.value)
    facts: dict[str, Any] = {"umbel": __version__, "python": platform.python_version(), "system": platform.platform()}
    facts |= {name: version(name) for name in LIBRARIES}
    facts |= {
        "device": f"{device.value}: {device.reason}",
        "precision": f"{precision.value}: {precision.reason}",
        "attention": f"{attention.value}: {attention.reason}",
        "processors": processors(),
        "memory": f"{device_memory('cpu') / GIB:.1f} GiB",
        "disk here": f"{shutil.disk_usage(Path.cwd()).free / GIB:.0f} GiB free",
        "data workers": f"{workers.value}: {workers.reason}",
        "matrix products": f"{matmul_rate(device.value, precision.value) / 1e9:,.0f} GFLOP/s in {precision.value}",
        "SLURM": slurm(),
    }
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        facts[f"extra {extra}"] = "installed" if found else f"not installed: pip install 'umbel[{extra}]'"
    return facts


def slurm() -> str:
    """The cluster's version and partitions as sinfo tells them, or why there are none."""
    if not shutil.which("sbatch"):
        return "no sbatch here"
    try:
        command = ["sinfo", "-a", "-h", "-o", "%R %D nodes %G %l"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"sbatch is here, but SLURM does not answer ({error})"
    if done.returncode:
        return f"sbatch is here, but SLURM does not answer ({done.stderr.strip().splitlines()[0]})"
    rows = [" ".join(row.replace("(null)", "no GPUs").split()) for row in done.stdout.splitlines()]
    return f"partitions {'; '.join(rows)}"
