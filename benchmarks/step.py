"""One training step as the loop takes it, from views that are made: what benchmarks and checks of the step run.

The same sequence as in umbel/ssl/train.py; tests/system/test_benchmarks.py holds the two equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from measuring import unmarked
from torch import Tensor, nn

from umbel.backbones.build import build
from umbel.backbones.family import stride_of
from umbel.data.index import ShardSet
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_attention
from umbel.ssl.agreement import Agreement
from umbel.ssl.feed import AddMasks, MaskedBatch
from umbel.ssl.losses import image_loss, patch_weights, weighted_patch_loss
from umbel.ssl.masking import draw_masks
from umbel.ssl.network import Network, set_attention
from umbel.ssl.optimizer import Schedule, build_optimizer, clip_gradients, step_unless, update_teacher
from umbel.ssl.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a step sees, on its device."""

    globals_: Tensor  # (2B, 3, S, S)
    locals_: Tensor  # (L*B, 3, s, s)
    masks: Tensor  # (2B, P) bool
    masked: Tensor  # (M,) int64
    weights: Tensor  # (M,) float32


def random_views(config: PretrainConfig, patch: int, device: torch.device, seed: int = 0) -> Seen:
    """Views of noise, of the configuration's sizes, with masks as training draws them."""
    views, batch = config.views, config.train.batch
    generator = torch.Generator().manual_seed(seed)
    side = views.global_size // patch
    arguments: dict[str, Any] = {"seed": seed, "step": 0, "global_batch": batch, "rows": range(batch)}
    masks = torch.from_numpy(draw_masks(config.masks, **arguments, grid=(side, side)))
    return Seen(
        globals_=torch.randn((2 * batch, 3, views.global_size, views.global_size), generator=generator).to(device),
        locals_=torch.randn((views.local_views * batch, 3, views.local_size, views.local_size), generator=generator).to(
            device
        ),
        masks=masks.to(device),
        masked=masks.flatten().nonzero().squeeze(1).to(device),
        weights=patch_weights(masks).to(device),
    )


def masked_batches(
    config: PretrainConfig, shards: ShardSet, *, patch: int, workers: int, pin: bool
) -> AbstractContextManager[Iterator[MaskedBatch]]:
    """Micro-batches without end, as the loop reads them."""
    slices = Slices(micro_batch=config.train.batch)
    dataset = TrainingDataset(shards, seed=config.seed, canvas=config.reader.canvas, window=config.reader.window)
    side = config.views.global_size // patch
    return training_batches(
        dataset,
        CursorSampler(slices, first=0, last=10**9),
        collate=AddMasks(config=config.masks, seed=config.seed, slices=slices, grid=(side, side)),
        workers=workers,
        pin=pin,
    )


def seen_of(item: MaskedBatch, views: Any) -> Seen:
    """What a step sees of a micro-batch that is on the device."""
    batch = item.batch
    globals_, locals_ = views(batch.canvas, batch.size, batch.epoch, batch.position)
    return Seen(globals_=globals_, locals_=locals_, masks=item.masks, masked=item.masked, weights=item.weights)


class TrainingStep:
    """Student, teacher and optimizer, and one step of them.

    Args:
        drop_path: in place of the configuration's.
        backbone: fresh weights of the configuration's by default.
        network: further arguments of `Network`: compile_blocks, checkpoint_activations.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        device: torch.device,
        precision: str,
        drop_path: float | None = None,
        backbone: nn.Module | None = None,
        steps_per_epoch: int = 10_000,
        total_steps: int = 1_000_000,
        **network: bool,
    ) -> None:
        self.config, self.device, self.precision = config, device, precision
        backbone = build(config.backbone, config.views.global_size) if backbone is None else backbone
        self.attention = choose_attention(device.type, precision).value
        set_attention(backbone, fused=self.attention == "fused")
        drop_path = config.optim.drop_path if drop_path is None else drop_path
        masking = config.masks.views > 0
        self.student = Network(backbone, config.head, drop_path, masking=masking, **network).to(device)
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.student.train()
        self.optimizer = build_optimizer(self.student, config.optim)
        # With the default lengths the learning rate stays at its floor: the weights hardly move while they are timed.
        self.schedule = Schedule(
            config=config.optim,
            global_batch=config.train.batch,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )
        self.backbone_parameters = [*self.student.backbone.parameters(), self.student.mask_token]
        self.head_parameters = list(self.student.head.parameters())
        self.steps = self.bad_steps = 0
        self.sums, self.good_steps = torch.zeros(7, device=device), torch.zeros((), device=device)
        self.agreement = Agreement(device)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return stride_of(self.student.backbone)

    def autocast(self) -> torch.autocast:
        """The context of forward passes."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def teach(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The teacher's outputs: classes (2, B, D) and patches (M, D)."""
        with torch.no_grad(), self.autocast():
            classes, patches = self.teacher(seen.globals_, None, None, seen.masked)[:2]
        return classes, patches

    def study(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The student's outputs: classes (2 + L, B, D) and patches (M, D)."""
        with self.autocast():
            classes, patches = self.student(seen.globals_, seen.locals_, seen.masks, seen.masked)[:2]
        return classes, patches

    def image_loss(self, own: Tensor, taught: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Total, compression and expansion."""
        loss = self.config.loss
        return image_loss(
            own,
            taught,
            eps=loss.eps,
            coeff=loss.coeff,
            center_with_teacher=loss.center_with_teacher,
            covariance=loss.covariance,
        )

    def losses(self, seen: Seen) -> Tensor:
        """(5,) loss, image loss, compression, expansion, patch loss; gradients are in the student's parameters."""
        return self._losses(seen, unmarked)

    def __call__(self, seen: Seen, mark: Callable[[str], None] = unmarked) -> Tensor:
        """Take a step; returns the loss. `mark` is told where a phase ends."""
        self.schedule.apply(self.optimizer, self.steps)
        mark("schedules")
        terms = torch.zeros(7, device=self.device)
        terms[:5] += self._losses(seen, mark)
        terms[5] = clip_gradients(self.backbone_parameters, self.config.optim.clip)
        terms[6] = clip_gradients(self.head_parameters, self.config.optim.clip)
        mark("clipping")
        flags = {"stopping": False, "save_due": False, "bad_photographs": 0}
        bad = self.agreement.add(self.steps + 1, terms, **flags)
        mark("flags")
        step_unless(bad, self.optimizer)
        mark("optimizer")
        self.average(bad)
        mark("teacher's average")
        self.optimizer.zero_grad(set_to_none=True)
        mark("gradients freed")
        self.sums += torch.where(bad > 0, 0.0, terms)
        self.good_steps += 1 - bad
        self.steps += 1
        self.bad_steps += sum(outcome.bad for outcome in self.agreement.outcomes())
        mark("sums and outcomes")
        return terms[0]

    def average(self, bad: Tensor) -> None:
        """Move the teacher towards the student, unless `bad` is 1."""
        update_teacher(self.teacher, self.student, self.schedule.momentum(self.steps), bad)

    def _losses(self, seen: Seen, mark: Callable[[str], None]) -> Tensor:
        taught_classes, taught_patches = self.teach(seen)
        mark("teacher forward")
        own_classes, own_patches = self.study(seen)
        mark("student forward")
        image, compression, expansion = self.image_loss(own_classes, taught_classes)
        patches = weighted_patch_loss(own_patches, taught_patches, seen.weights)
        loss = image + self.config.loss.patch_weight * patches
        mark("losses forward")
        loss.backward()
        mark("backward")
        return torch.stack([loss, image, compression, expansion, patches]).detach()
