"""Checkpoints of a fitted network: all that is needed to continue, and its best weights so far as a timm folder.

checkpoints/step-00000500/training.pt     weights, averages, the best so far, optimizer, step
checkpoints/step-00000500/backbone/       config.json, model.safetensors; beside it what the learner writes
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.run import UserError
from umbel.ssl.checkpoint import FORMAT, new_checkpoint, read_state
from umbel.ssl.learner import Learner
from umbel.ssl.weight_average import WeightAverage


@dataclass(kw_only=True)
class Best:
    """The validation with the highest score so far."""

    row: dict[str, Any] | None = None
    """Its row of validation.jsonl; None: there was no validation yet."""
    since: int = 0
    """Validations after it."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """The learner's weights then (the averaged ones); on rank 0."""


def save_fit(
    folder: Path,
    *,
    step: int,
    learner: Learner,
    average: WeightAverage,
    best: Best,
    optimizer: torch.optim.Optimizer,
    card: ModelCard,
) -> Path:
    """Write the checkpoint of `step` completed steps; it appears whole or not at all.

    Its backbone has the weights of the best validation, without one the averaged weights.

    Raises:
        UserError: it cannot be written (a full disk); earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        return path
    state = {
        "format": FORMAT,
        "step": step,
        "learner": learner.state_dict(),
        "average": average.state_dict(),
        "best": {"row": json.dumps(best.row), "since": best.since, "weights": best.weights},
        "optimizer": optimizer.state_dict(),
    }
    with new_checkpoint(path) as beside:
        torch.save(state, beside / "training.pt")
        with average.in_place():
            now = None
            if best.weights:
                now = copy.deepcopy(learner.state_dict())
                learner.load_state_dict(best.weights)
            try:
                write_timm_folder(beside / "backbone", learner.backbone.state_dict(), card)
                learner.write_beside(beside, best.row)
            finally:
                if now is not None:
                    learner.load_state_dict(now)
    return path


def load_fit(
    path: Path,
    *,
    learner: Learner,
    average: WeightAverage,
    best: Best,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> int:
    """Restore a checkpoint and return the number of completed steps.

    Raises:
        UserError: unreadable, of a newer format, or of another network.
    """
    state = read_state(path, device, needed=("learner", "average", "best", "optimizer"))
    try:
        learner.load_state_dict(state["learner"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is of another network: {' '.join(str(error).split())[:200]}.") from error
    best.row, best.since = json.loads(state["best"]["row"]), int(state["best"]["since"])
    best.weights = state["best"]["weights"]
    return int(state["step"])
