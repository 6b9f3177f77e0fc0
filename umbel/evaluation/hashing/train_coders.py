"""The training of hash coders: one for each modality, whose views of an item predict each other's bits.

Source: Image Hashing via Cross-View Code Alignment in the Age of Foundation Models (arXiv 2510.27584).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from umbel.evaluation.hashing.coder import HashCoder, Size
from umbel.evaluation.hashing.loss import crovca_loss
from umbel.run import Bar, TrainingError, UserError, say


@dataclass(frozen=True, kw_only=True)
class CrovcaConfig:
    """How a HashCoder is trained."""

    size: Size = "small"
    """Layers of the coder: small (one hidden layer) or large (two wide ones)."""
    affine: bool = False
    """Scale and shift in the batch normalization, as the original has."""
    epochs: int = 5
    """Passes over the photographs; more where they would be fewer than `least_steps`."""
    least_steps: int = 1000
    """Steps that a coder needs, however few photographs there are: after the paper's 5 epochs of 4,829 flowers (90
    steps) 16 bits find 14.5 (mAP@1000), after 1,000 steps 16, after 3,600 no more than 16.4."""
    batch: int = 256
    """Photographs in a step; the remainder of an epoch is dropped."""
    learning_rate: float = 1e-3
    """Of AdamW, at the first step; a tenth of it where coders go on beside an encoder's adapters."""
    floor: float = 1e-6
    """Learning rate that the cosine ends in."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    views: int = 2
    """V, views of a photograph that a step draws."""
    eps: float = 0.05
    """Precision of the coding rate."""
    weight: float = 0.3
    """Of the regularizer. The paper's 0.1 leaves bits correlated (0.65 at 32 bits on synthetic plants, with 0.3 0.06)
    where views agree less than those of a foundation model do."""
    memory: float = 0.9
    """Supervised: share of a class's prototype that a batch leaves as it was; 0: of one batch, as the original has."""

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 2), ("views", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"crovca.{name} must be at least {low}, not {getattr(self, name)}")
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"crovca.{name} must be positive, not {getattr(self, name)}")
        for name in ("floor", "weight_decay", "weight", "least_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"crovca.{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"crovca.memory must be at least 0 and less than 1, not {self.memory}")


@dataclass(kw_only=True)
class FitLog:
    """What a training went through, one entry a step."""

    total: list[float] = field(default_factory=list)
    alignment: list[float] = field(default_factory=list)
    regularizer: list[float] = field(default_factory=list)


def train_coders(
    widths: Sequence[int],
    count: int,
    draw: Callable[[Tensor, torch.Generator], list[tuple[int, Tensor]]],
    *,
    bits: int,
    seed: int,
    config: CrovcaConfig,
    device: torch.device,
    targets: Callable[[Tensor, Tensor], Tensor | None] = lambda logits, rows: None,
    log: FitLog | None = None,
) -> list[HashCoder]:
    """Train coders, one for each modality, on items whose views or modalities predict each other's bits.

    Args:
        widths: C of every modality.
        count: N, items.
        draw: (B,) items and a generator -> at least two pairs of a coder's number and its input (B, C).
        targets: logits (V, B, K) and the items (B,) -> known bits (B, K), see `crovca_loss`; None: there are none.

    Raises:
        UserError: fewer than two items.
        TrainingError: a loss that is not finite.
    """
    if count < 2:
        raise UserError(f"a hash coder needs at least 2 photographs to train on, not {count}.")
    batch = min(config.batch, count)
    if batch < config.batch:
        say(f"batch {batch}: there are fewer photographs than the {config.batch} of a batch.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        coders = nn.ModuleList([HashCoder(width, bits, size=config.size, affine=config.affine) for width in widths])
    coders.to(device).train()
    # Drawn on the CPU, so that every device sees the same order.
    generator = torch.Generator().manual_seed(seed)
    by_epochs = config.epochs * (count // batch)
    epochs = max(config.epochs, math.ceil(config.least_steps / (count // batch)))
    steps = epochs * (count // batch)
    if steps > by_epochs:
        say(f"{epochs} epochs, {steps} steps: {config.epochs} would be {by_epochs}, fewer than crovca.least-steps.")
    optimizer = torch.optim.AdamW(coders.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=config.floor)
    losses = []
    with Bar("training the coder", steps) as bar:
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator)
            for first in range(0, count - batch + 1, batch):
                rows = order[first : first + batch]
                # One pass a view: each has its own batch statistics, as in the original.
                logits = torch.stack([coders[number](view) for number, view in draw(rows, generator)])
                loss = crovca_loss(list(logits), eps=config.eps, weight=config.weight, targets=targets(logits, rows))
                optimizer.zero_grad()
                loss[0].backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(torch.stack([term.detach() for term in loss]))
                bar.advance()
    tell(torch.stack(losses).cpu(), log)
    return [coder.eval() for coder in coders if isinstance(coder, HashCoder)]


def tell(losses: Tensor, log: FitLog | None) -> None:
    """Refuse a training that broke; put (steps, 3) losses into the log."""
    bad = (~losses.isfinite()).any(1).nonzero()
    if len(bad):
        raise TrainingError(
            f"the hash coder's loss was not finite at step {int(bad[0])} of {len(losses)}: look at the embeddings."
        )
    if log is not None:
        log.total, log.alignment, log.regularizer = losses.T.tolist()
