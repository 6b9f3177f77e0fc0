"""Learning rate, weight decay and teacher momentum as functions of the optimizer step."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def warmup_cosine(step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from `floor` at step 0 to `peak` at step `warmup_steps`, then half a cosine down to `floor` at the end."""
    if step < warmup_steps:
        return floor + (peak - floor) * step / warmup_steps
    return cosine(peak, floor, (step - warmup_steps) / max(total_steps - warmup_steps, 1))


def scaled_learning_rate(base: float, global_batch: int) -> float:
    """base * sqrt(G / 1024); G counts photographs over ranks and accumulation."""
    return base * math.sqrt(global_batch / 1024)
