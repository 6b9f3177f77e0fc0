"""Checks of the GPU suite: fast paths of networks and optimizer beside plain ones, on the same numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch._dynamo
from gpu_context import Context
from gpu_rows import Row, flat_gradient, full_float32, joined_error, relative, row
from step import Seen, TrainingStep, random_views
from torch import Tensor

from umbel.backbones.build import build
from umbel.ssl.network import Network, set_attention
from umbel.ssl.optimizer import clip_gradients, step_unless

BATCH = 8


def attention(context: Context) -> list[Row]:
    """The fused kernel against matrix products and a softmax, forward and gradients, both sizes of views."""
    full_float32()
    config = context.config("ViT-S", BATCH)
    torch.manual_seed(0)
    network = Network(build(config.backbone, config.views.global_size), config.head, 0.0).to(context.device)
    rows = []
    for precision, tolerance in (("float32", 1e-4), ("bf16", 3e-2)):
        for side in (config.views.global_size, config.views.local_size):
            images = torch.randn(2 * BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
            found: list[tuple[Tensor, Tensor]] = []
            for fused in (True, False):
                set_attention(network.backbone, fused=fused)
                if {getattr(module, "fused_attn", fused) for module in network.modules()} != {fused}:
                    raise RuntimeError("the blocks did not take the kernel that they were told to.")
                network.zero_grad(set_to_none=True)
                with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                    tokens = network.tokens(images.to(context.device), None)
                noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)).to(context.device)
                (tokens.float() * noise).sum().backward()
                found.append((tokens, flat_gradient(network.backbone.parameters())))
            (fused_tokens, fused_gradient), (plain_tokens, plain_gradient) = found
            name = f"fused attention, {precision}, {side} px"
            rows.append(row(f"{name}: tokens", relative(fused_tokens, plain_tokens), tolerance))
            rows.append(row(f"{name}: gradients", relative(fused_gradient, plain_gradient), tolerance))
    return rows


def taken(
    context: Context, precision: str, device: torch.device, *, drop_path: float = 0.0, **settings: Any
) -> tuple[Tensor, Tensor, TrainingStep, Seen]:
    """Loss terms and gradients of a step on the same weights and views, whatever the device and precision."""
    config = context.config("ViT-S", BATCH)
    torch.manual_seed(0)
    backbone = build(config.backbone, config.views.global_size)
    step = TrainingStep(config, device=device, precision=precision, drop_path=drop_path, backbone=backbone, **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # A teacher that differs from the student, as after some steps, and heads with something to say.
        for parameter in step.teacher.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator).to(device))
    seen = random_views(config, step.patch, device)
    torch.manual_seed(4)
    terms = step.losses(seen)
    return terms, flat_gradient(step.student.parameters()), step, seen


def precision(context: Context) -> list[Row]:
    """A step in float32 on the device against the CPU, then bf16 against float32 on the device."""
    full_float32()
    terms, gradient, *_ = taken(context, "float32", context.device)
    expected_terms, expected_gradient, *_ = taken(context, "float32", torch.device("cpu"))
    rows = [
        row("step in float32 against the CPU: loss terms", relative(terms, expected_terms), 1e-4),
        row("step in float32 against the CPU: gradients", relative(gradient, expected_gradient), 2e-3),
    ]
    half_terms, half_gradient, *_ = taken(context, "bf16", context.device)
    cosine = float(half_gradient @ gradient / (half_gradient.norm() * gradient.norm()))
    rows.append(row("step in bf16 against float32: loss terms", relative(half_terms, terms), 3e-2))
    rows.append(row("step in bf16 against float32: 1 - cosine of gradients", 1 - cosine, 3e-2))
    return rows


def compiled(context: Context) -> list[Row]:
    """Compiled blocks against eager ones, and no compiling anew after the first step."""
    from torch._dynamo.utils import counters

    full_float32()
    rows = []
    for kind, tolerance in (("float32", 1e-3), ("bf16", 5e-2)):
        torch._dynamo.reset()
        counters.clear()
        expected_terms, expected_gradient, *_ = taken(context, kind, context.device)
        terms, gradient, step, seen = taken(context, kind, context.device, compile_blocks=True)
        rows.append(row(f"compiled blocks, {kind}: loss terms", relative(terms, expected_terms), tolerance))
        rows.append(row(f"compiled blocks, {kind}: gradients", relative(gradient, expected_gradient), tolerance))
        before = counters["stats"]["unique_graphs"]
        if not before:
            raise RuntimeError("nothing was compiled.")
        for _ in range(3):
            step(seen)
        after = counters["stats"]["unique_graphs"]
        rows.append(row(f"compiled blocks, {kind}: graphs compiled anew in 3 steps", after - before, 0))
    return rows


def checkpointing(context: Context) -> list[Row]:
    """Activations computed anew in the backward pass against kept ones, with drop path."""
    full_float32()
    expected_terms, expected_gradient, *_ = taken(context, "float32", context.device, drop_path=0.2)
    terms, gradient, *_ = taken(context, "float32", context.device, drop_path=0.2, checkpoint_activations=True)
    return [
        row("activation checkpointing: loss terms", relative(terms, expected_terms), 1e-6),
        row("activation checkpointing: gradients", relative(gradient, expected_gradient), 1e-4),
    ]


def optimizer(context: Context) -> list[Row]:
    """Clipping, fused AdamW and the teacher's average against float64 written out."""
    config = context.config("ViT-S", BATCH)
    torch.manual_seed(0)
    step = TrainingStep(config, device=context.device, precision="float32")
    step.schedule.apply(step.optimizer, 500_000)
    step.steps = 500_000
    student = [p for group in step.optimizer.param_groups for p in group["params"]]
    groups = [group for group in step.optimizer.param_groups for _ in group["params"]]
    weights = [p.detach().double().cpu() for p in student]
    begun = [w.clone() for w in weights]
    teacher_begun = [p.detach().double().cpu() for p in step.teacher.parameters()]
    teacher = teacher_begun
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    beta1, beta2 = config.optim.betas
    good = torch.zeros((), device=context.device)
    momentum, norm_error, clipped_error = step.schedule.momentum(step.steps), 0.0, 0.0
    for number in range(1, 4):
        gradients = [torch.randn(w.shape, generator=generator).double() for w in weights]
        for parameter, gradient in zip(student, gradients, strict=True):
            parameter.grad = gradient.float().to(context.device)
        gradients = [gradient.float().double() for gradient in gradients]
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        found = float(clip_gradients(student, 3.0))
        norm_error = max(norm_error, abs(found - norm) / norm)
        gradients = [gradient * min(1.0, 3.0 / (norm + 1e-6)) for gradient in gradients]
        clipped_error = max(clipped_error, joined_error([p.grad for p in student if p.grad is not None], gradients))
        step_unless(good, step.optimizer)
        step.average(good)
        for i, (gradient, group) in enumerate(zip(gradients, groups, strict=True)):
            weights[i] *= 1 - group["lr"] * group["weight_decay"]
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient.square()
            denominator = (second[i] / (1 - beta2**number)).sqrt() + group["eps"]
            weights[i] -= group["lr"] * first[i] / (1 - beta1**number) / denominator
        now = dict(zip(student, weights, strict=True))
        teacher = [
            momentum * old + (1 - momentum) * now[p] for old, p in zip(teacher, step.student.parameters(), strict=True)
        ]
    # Of what the steps changed: next to the weights themselves an error would look small.
    changes = differences([p.detach().double().cpu() for p in student], begun)
    of_teacher = differences([p.double().cpu() for p in step.teacher.parameters()], teacher_begun)
    return [
        row("gradient norm", norm_error, 1e-4),
        row("gradients after clipping", clipped_error, 1e-4),
        row("fused AdamW, change of weights in 3 steps", joined_error(changes, differences(weights, begun)), 1e-4),
        row("the teacher's change in 3 steps", joined_error(of_teacher, differences(teacher, teacher_begun)), 1e-3),
    ]


def differences(now: list[Tensor], before: list[Tensor]) -> list[Tensor]:
    """Of tensors one by one."""
    return [a - b for a, b in zip(now, before, strict=True)]
