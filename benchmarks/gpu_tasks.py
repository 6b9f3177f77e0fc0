"""The GPU suite's tasks, most valuable first; minutes are estimates for one H200 with the start of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

POLICIES = ("plant", "dinov2", "none")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A function that returns rows for a table, in a process of its own."""

    name: str
    """Table, and task within it: words with a dot between."""
    minutes: float
    call: str
    """module:function, called with the context and the settings."""
    settings: dict[str, Any] = field(default_factory=dict)


def tasks() -> list[Task]:
    """All of them, in the order in which they are run."""
    checks = {
        "gpu_check_data": ("crops", "views", "transfer"),
        "gpu_checks": ("attention", "precision", "optimizer", "compiled", "checkpointing"),
    }
    found = [
        Task(name=f"checks.{name}", minutes=2.0 if name == "compiled" else 1.0, call=f"{module}:{name}")
        for module, names in checks.items()
        for name in names
    ]
    found.append(Task(name="checks.resume", minutes=3.0, call="gpu_runs:resume"))
    for compiled, minutes in ((False, 2.0), (True, 4.0)):
        for model in ("ViT-B", "ViT-S", "ViT-L"):
            found.append(
                Task(
                    name=f"throughput.{model}-{'compiled' if compiled else 'eager'}",
                    minutes=minutes,
                    call="gpu_speed:throughput",
                    settings={"model": model, "compiled": compiled},
                )
            )
    for model in ("ViT-B", "ViT-L", "ViT-S"):
        settings = {"model": model}
        found.append(Task(name=f"end-to-end.{model}", minutes=3.5, call="gpu_runs:end_to_end", settings=settings))
    for model in ("ViT-B", "ViT-S"):
        settings = {"model": model}
        found.append(Task(name=f"profile.{model}", minutes=2.5, call="gpu_profile:profile", settings=settings))
    found.append(Task(name="views.device", minutes=3.5, call="gpu_speed:views"))
    # A seed of every policy before the next seed: an unfinished comparison is fair too.
    for seed in SEEDS:
        for policy in POLICIES:
            settings = {"policy": policy, "seed": seed}
            found.append(
                Task(name=f"policies.{policy}-{seed}", minutes=5.0, call="gpu_runs:policy_run", settings=settings)
            )
    found.append(Task(name="demo.demo-gpu", minutes=8.0, call="gpu_runs:demo"))
    return found
