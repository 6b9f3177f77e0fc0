"""Coders and encoders' adapters trained together, after the coders have learned alone on the frozen encoder.

Source: the LoRA variant of CroVCA (Image Hashing via Cross-View Code Alignment in the Age of Foundation Models, arXiv
2510.27584).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.lora import Adapted, LoraConfig
from umbel.evaluation.hashing.loss import crovca_loss
from umbel.evaluation.hashing.train_coders import CrovcaConfig, FitLog, tell
from umbel.evaluation.hashing.view_stream import ViewBatch
from umbel.machine import choose_attention, choose_precision
from umbel.run import Bar, say

HEADS_SHARE = 0.1
"""Of crovca.learning_rate, for heads that have learned alone: the whole of it undoes a part of that. On 480 synthetic
plants and 32 bits, means of two seeds, supervised codes find 25.8 (mAP %) with 1 and 26.9 with 0.1, alone 27.0; words
find 28.6 and 30.7, alone 30.9."""
Look = Callable[[ViewBatch, torch.Generator], list[tuple[int, Tensor]]]
"""A batch -> at least two pairs of a coder's number and its input (n, C); fewer: the batch is of no use."""


def train_adapters(
    coders: Sequence[HashCoder],
    encoders: Sequence[Adapted],
    batches: Iterable[ViewBatch],
    steps: int,
    look: Look,
    *,
    seed: int,
    device: torch.device,
    config: CrovcaConfig,
    lora: LoraConfig,
    targets: Callable[[Tensor, ViewBatch], Tensor | None] = lambda logits, batch: None,
    log: FitLog | None = None,
) -> None:
    """Train in place; the coders end in eval mode.

    Args:
        steps: batches that there are.
        look: runs the encoders; under autocast where the device computes in bf16.
        targets: logits (V, n, K) and the batch -> known bits (n, K), see `crovca_loss`; None: there are none.

    Raises:
        TrainingError: a loss that is not finite.
        UserError: an encoder that its adapters do not reach.
    """
    heads, adapters = [p for coder in coders for p in coder.parameters()], [p for e in encoders for p in e.parameters()]
    rate = HEADS_SHARE * config.learning_rate
    groups = [{"params": heads, "lr": rate}, {"params": adapters, "lr": lora.learning_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=config.floor)
    precision = choose_precision("auto", device.type)
    count = sum(parameter.numel() for parameter in adapters)
    say(f"adapters: {count:,} weights, {steps} steps in {precision.value}: {precision.reason}.")
    generator, losses = torch.Generator().manual_seed(seed), list[Tensor]()
    for coder in coders:
        coder.train()
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), _attention(encoders, device, precision.value):
        torch.manual_seed(seed)  # of the adapters' dropout
        with Bar("training coder and adapters", steps) as bar:
            for batch in batches:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision.value == "bf16"):
                    seen = look(batch, generator)
                if len(seen) >= 2:
                    logits = torch.stack([coders[number](features.float()) for number, features in seen])
                    loss = crovca_loss(
                        list(logits), eps=config.eps, weight=config.weight, targets=targets(logits, batch)
                    )
                    optimizer.zero_grad()
                    loss[0].backward()  # type: ignore[no-untyped-call]
                    if not losses:
                        for encoder in encoders:
                            encoder.check_used()
                    optimizer.step()
                    losses.append(torch.stack([term.detach() for term in loss]))
                schedule.step()
                bar.advance()
    for coder in coders:
        coder.eval()
    if losses:
        tell(torch.stack(losses).cpu(), log)


@contextlib.contextmanager
def _attention(encoders: Sequence[Adapted], device: torch.device, precision: str) -> Iterator[None]:
    """The attention kernel that trains fastest, for as long as it lasts; results stay the same."""
    fused = choose_attention(device.type, precision).value == "fused"
    modules: list[Any] = [m for encoder in encoders for m in encoder.network.modules() if hasattr(m, "fused_attn")]
    before = [module.fused_attn for module in modules]
    for module in modules:
        module.fused_attn = fused and module.fused_attn
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.fused_attn = was
