"""What a training step is compared with: its lower bounds, and its smaller parts each by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from step import Seen, TrainingStep
from torch import Tensor

from umbel.ssl.health import gradient_norms, health
from umbel.ssl.losses import weighted_patch_loss

LOG_LINE = "measures of a log line"
"""Taken at log points alone: no part of the whole step."""


def noise_like(*outputs: Tensor) -> list[Tensor]:
    """Fixed noise: under a plain sum the last norm's gradients would vanish, and tiny numbers are slow on a CPU."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(output.shape, generator=generator).to(output.device) for output in outputs]


def backward(ours: TrainingStep, outputs: tuple[Tensor, ...], noise: list[Tensor]) -> None:
    """Gradients of the outputs' sum, weighted, in all parameters."""
    torch.stack([(output.float() * n).sum() for output, n in zip(outputs, noise, strict=True)]).sum().backward()
    ours.optimizer.zero_grad(set_to_none=True)


def bound_with_heads(ours: TrainingStep, seen: Seen) -> Callable[[], None]:
    """Both networks as training calls them."""
    noise = noise_like(*ours.study(seen))

    def run() -> None:
        ours.teach(seen)
        backward(ours, ours.study(seen), noise)

    return run


def bound_without_heads(ours: TrainingStep, seen: Seen) -> Callable[[], None]:
    """Both backbones: the same views, masks and tokens that are looked at."""

    def looked_at(network: Any, masks: Tensor | None, *, with_locals: bool) -> tuple[Tensor, ...]:
        with ours.autocast():
            tokens = network.tokens(seen.globals_, masks)
            patches = tokens[:, network.prefix :].flatten(0, 1).index_select(0, seen.masked)
            found = (tokens[:, 0], patches)
            return (*found, network.tokens(seen.locals_, None)[:, 0]) if with_locals else found

    noise = noise_like(*looked_at(ours.student, seen.masks, with_locals=True))

    def run() -> None:
        with torch.no_grad():
            looked_at(ours.teacher, None, with_locals=False)
        backward(ours, looked_at(ours.student, seen.masks, with_locals=True), noise)

    return run


def parts_alone(ours: TrainingStep, seen: Seen) -> dict[str, Callable[[], object]]:
    """What the step has beside the backbones, each by itself; losses and head forward and backward."""
    own_classes, own_patches = (output.detach().requires_grad_() for output in ours.study(seen))
    taught_classes, taught_patches = ours.teach(seen)
    with torch.no_grad(), ours.autocast():
        tokens = ours.teacher(seen.globals_, None, None, seen.masked).tokens
    width = ours.student.backbone.num_features
    for_student = torch.randn(own_classes.shape[0] * own_classes.shape[1] + len(own_patches), width).to(ours.device)
    for_student.requires_grad_()
    for_teacher = for_student.detach()[: taught_classes.shape[0] * taught_classes.shape[1] + len(taught_patches)]
    with ours.autocast():
        noise = noise_like(ours.student.head(for_student))

    def heads() -> None:
        with torch.no_grad(), ours.autocast():
            ours.teacher.head(for_teacher)
        with ours.autocast():
            out = ours.student.head(for_student)
        backward(ours, (out,), noise)

    parameters = list(ours.student.parameters())
    gradients = [torch.randn_like(parameter) for parameter in parameters]

    def log_line() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        _, norms = gradient_norms(ours.student)
        healthy = health(tokens, own_classes, taught_classes, eps=ours.config.loss.eps)
        torch.cat([healthy, norms.to(healthy.dtype)]).tolist()
        ours.optimizer.zero_grad(set_to_none=True)

    return {
        "both heads": heads,
        "image loss": lambda: ours.image_loss(own_classes, taught_classes)[0].backward(),
        "patch loss": lambda: weighted_patch_loss(own_patches, taught_patches, seen.weights).backward(),
        LOG_LINE: log_line,
    }
