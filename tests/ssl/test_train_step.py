"""The loop's first step against plain formulas in float64: accumulation, clipping, AdamW and the teacher's average.

After one step AdamW's first average holds a tenth of the clipped gradient, which a checkpoint keeps.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD, Views
from umbel.config import from_values, read_recipe
from umbel.data.index import open_shards
from umbel.data.training import TrainingDataset
from umbel.ssl.masking import draw_masks
from umbel.ssl.network import Network
from umbel.ssl.pretrain import first_backbone
from umbel.ssl.pretrain_config import PretrainConfig

BATCH, ACCUMULATION, MOMENTUM = 3, 2, 0.7
RECIPE = """
format: 1
command: pretrain
backbone: {name: vit_tiny_patch16_224, width: 32, depth: 2, heads: 2, patch: 8, registers: 2}
head: {hidden: 48, width: 24}
views: {global_size: 32, local_size: 16, local_views: 2}
loss: {eps: 0.1, coeff: 2.0, patch_weight: 0.7}
optim: {warmup_epochs: 0.0, drop_path: 0.0, teacher_momentum: [0.7, 1.0]}
reader: {canvas: 64, window: 2, workers: 0}
train: {batch: 3, accumulation: 2, epochs: 1.0, precision: float32}
"""


def pair_loss(student: Tensor, teacher: Tensor, masks: Tensor, own: Tensor, seen: Tensor, loss: Any) -> Tensor:
    """The specification's loss of one micro-batch, in loops."""
    views, batch, width = student.shape
    pairs = [(i, j) for i in range(2) for j in range(views) if i != j]
    compression = sum((teacher[i] * student[j]).sum(-1).mean() for i, j in pairs) / len(pairs)
    rate = torch.zeros((), dtype=torch.float64)
    for v in range(2):
        f = (student[v] + teacher[v]) / 2
        scatter = torch.eye(width, dtype=f.dtype) + width / (batch * loss.eps) * f.T @ f
        rate = rate + torch.log(torch.linalg.det(scatter)) / 2 / 2
    image = -loss.coeff * compression - (width + batch) / (width * batch) * rate
    patch, row = torch.zeros((), dtype=torch.float64), 0
    for mask in masks:
        for _ in range(int(mask.sum())):
            patch = patch - (own[row] * seen[row]).sum() / int(mask.sum()) / (2 * batch)
            row += 1
    return image + loss.patch_weight * patch  # type: ignore[no-any-return]


class FirstStep(NamedTuple):
    state: dict[str, Any]
    """The checkpoint of one step."""
    gradient: dict[str, Tensor]
    """By hand, before clipping."""
    network: Network
    """Before the step."""
    clip: float


@pytest.fixture(scope="module", params=[0.05, 100.0], ids=["clipped", "unclipped"])
def first_step(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes]
) -> FirstStep:
    folder = tmp_path_factory.mktemp("step")
    (folder / "photographs").mkdir()
    for number in range(BATCH * ACCUMULATION):
        (folder / "photographs" / f"{number}.jpg").write_bytes(jpeg(number))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "umbel", "pretrain", "photographs", "--out", "run", "--recipe", "recipe.yaml"]
    command += ["--optim.clip", str(request.param)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    saved = folder / "run" / "checkpoints" / "step-00000001" / "training.pt"
    state = torch.load(saved, map_location="cpu", weights_only=True)

    config = from_values(
        PretrainConfig(data=str(folder), out=folder), read_recipe(str(recipe), "pretrain"), str(recipe)
    )
    torch.manual_seed(0)
    backbone, _ = first_backbone(config)
    torch.manual_seed(0)
    network = Network(backbone, config.head, 0.0)
    before = copy.deepcopy(network)
    student, teacher = network.double(), copy.deepcopy(network).double()
    dataset = TrainingDataset(open_shards(str(folder / "run" / "shards")), seed=0, canvas=64, window=2)
    views = Views(config.views, seed=0, mean=INAT_PLANTAE_MEAN, std=INAT_PLANTAE_STD, device=torch.device("cpu"))
    for first in range(0, BATCH * ACCUMULATION, BATCH):
        rows = range(first, first + BATCH)
        batch = dataset.__getitems__(list(rows))
        globals_, locals_ = (v.double() for v in views(batch.canvas, batch.size, batch.epoch, batch.position))
        masks = torch.from_numpy(
            draw_masks(config.masks, seed=0, step=0, global_batch=BATCH * ACCUMULATION, rows=rows, grid=(4, 4))
        )
        masked = masks.flatten().nonzero().squeeze(1)
        with torch.no_grad():
            seen = teacher(globals_, None, None, masked)
        own = student(globals_, locals_, masks, masked)
        loss = pair_loss(own.classes, seen.classes, masks, own.patches, seen.patches, config.loss)
        (loss / ACCUMULATION).backward()
    gradient = {}
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        gradient[name] = parameter.grad
    return FirstStep(state, gradient, before, request.param)


def names_in_groups(state: dict[str, Any], network: Network) -> dict[str, int]:
    """Name -> number of the parameter in the optimizer's state, group by group."""
    from umbel.ssl.optimizer import OptimConfig, parameter_groups

    names = {id(p): name for name, p in network.named_parameters()}
    order = [names[id(p)] for group in parameter_groups(network, OptimConfig()) for p in group["params"]]  # type: ignore[attr-defined]
    assert len(order) == len(state["optimizer"]["state"])
    return {name: number for number, name in enumerate(order)}


def test_the_gradient_is_the_mean_over_micro_batches_and_clipped_apart(first_step: FirstStep) -> None:
    state, gradient, network, clip = first_step
    number = names_in_groups(state, network)
    for is_head in (False, True):
        part = {name: g for name, g in gradient.items() if name.startswith("head.") == is_head}
        norm = math.sqrt(sum(float(g.square().sum()) for g in part.values()))
        assert (norm > clip) == (clip < 1), "one case is clipped, the other is not"
        for name, g in part.items():
            found = state["optimizer"]["state"][number[name]]["exp_avg"].double() / 0.1
            expected = g * min(1.0, clip / norm)
            # The head's first outputs are tiny before they are normalized: float32 leaves three digits or more.
            assert (found - expected).norm() <= 2e-3 * expected.norm(), name


def test_adamw_takes_its_first_step_with_the_layers_rate_and_decay(first_step: FirstStep) -> None:
    state, _, network, _ = first_step
    number = names_in_groups(state, network)
    rate = 0.004 * math.sqrt(BATCH * ACCUMULATION / 1024)
    for name, multiplier, decay in (
        ("backbone.blocks.1.mlp.fc1.weight", 0.9, 0.04),
        ("backbone.blocks.0.mlp.fc1.weight", 0.81, 0.04),
        ("backbone.blocks.0.norm1.weight", 0.81, 0.0),
        ("backbone.patch_embed.proj.weight", 0.9**3 * 0.2, 0.04),
        ("head.mlp.0.weight", 1.0, 0.04),
    ):
        first = dict(network.named_parameters())[name].detach().double()
        average = state["optimizer"]["state"][number[name]]["exp_avg"].double() / 0.1
        square = state["optimizer"]["state"][number[name]]["exp_avg_sq"].double() / 0.001
        lr = rate * multiplier
        expected = first * (1 - lr * decay) - lr * average / (square.sqrt() + 1e-8)
        torch.testing.assert_close(state["student"][name].double(), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(square, average.square(), rtol=1e-4, atol=1e-12)


def test_the_teacher_moves_by_the_first_momentum(first_step: FirstStep) -> None:
    state, _, network, _ = first_step
    for name, first in network.named_parameters():
        expected = MOMENTUM * first.detach().double() + (1 - MOMENTUM) * state["student"][name].double()
        torch.testing.assert_close(state["teacher"][name].double(), expected, rtol=1e-5, atol=1e-7)
        assert np.isfinite(state["teacher"][name].numpy()).all()
