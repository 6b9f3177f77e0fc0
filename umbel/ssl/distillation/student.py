"""The learner of a distillation: a student that should say of a view what its teacher says, and name its species."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from umbel.coding_rate import at_least_float32
from umbel.evaluation.exporting.classifier_head import ClassifierHead
from umbel.ssl.classifier import weighted_cross_entropy
from umbel.ssl.distillation.cosine import cosine_distance
from umbel.ssl.distillation.dist import dist_loss
from umbel.ssl.distillation.feature_queue import FeatureQueue, queue_length
from umbel.ssl.distillation.features import Shape, read_features
from umbel.ssl.distillation.grid import resize_grid
from umbel.ssl.distillation.logits import logit_divergence, standardize_logits
from umbel.ssl.distillation.loss_config import OF_FEATURES, DistillLossConfig
from umbel.ssl.distillation.projector import projector
from umbel.ssl.distillation.relational import relational_loss
from umbel.ssl.distillation.running_statistics import RunningStatistics
from umbel.ssl.distillation.teacher import Teacher, resized
from umbel.ssl.learner import Labels, Learner


class Student(Learner):
    """A backbone with what distillation needs around it: projectors, statistics, queue, classifier.

    Parts that no loss asks for are not there: data-parallel training waits for the gradient of every parameter.
    """

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor

    def __init__(
        self,
        backbone: Any,
        config: DistillLossConfig,
        *,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        shape: Shape,
        teacher: Teacher | None,
        teacher_shape: Shape | None,
        classes: Sequence[str],
        photographs: int,
    ) -> None:
        """Put the parts together.

        Args:
            size: side of the student's images; views of another size are resized.
            mean, std: by which views come normalized, and the student's own.
            shape: the student's widths.
            teacher, teacher_shape: None where no loss needs a teacher.
            classes: names of the classifier's K classes, where a loss needs one.
            photographs: of an epoch; they bound the queue.
        """
        super().__init__()
        self.backbone, self.config, self.size, self.classes = backbone, config, size, tuple(classes)
        self.active = config.active
        self.terms = ("loss", *self.active)
        # In a list, and so no submodule.
        self._teacher = [teacher] if teacher is not None and config.uses_teacher else []
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        parts: dict[str, nn.Module] = {}
        if self._teacher and teacher_shape is not None:
            if "pooled" in self.active or "relational" in self.active:
                parts["pooled"] = projector(config.projector, shape.pooled, teacher_shape.pooled)
                parts["pooled_statistics"] = RunningStatistics(teacher_shape.pooled)
            if "patches" in self.active:
                assert shape.grid is not None
                assert teacher_shape.grid is not None
                parts["patches"] = projector(config.projector, shape.grid, teacher_shape.grid)
                parts["patch_statistics"] = RunningStatistics(teacher_shape.grid)
            if "relational" in self.active:
                parts["queue"] = FeatureQueue(queue_length(photographs, config.queue), teacher_shape.pooled)
        self.parts = nn.ModuleDict(parts)
        self.classifier = nn.Linear(shape.pooled, len(classes)) if config.classifies else None
        if self.classifier is not None:
            nn.init.trunc_normal_(self.classifier.weight, std=0.02)
            nn.init.zeros_(self.classifier.bias)

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, where it runs in training."""
        return self._teacher[0] if self._teacher else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Student:
        """Take the teacher along to a device or a precision."""
        for teacher in self._teacher:
            teacher.move(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def forward(self, images: Tensor, labels: Labels) -> Tensor:
        """The losses of a batch.

        Args:
            images: (B, 3, S, S), normalized by the student's statistics; the teacher sees the same ones.
            labels: their labels, where a loss needs them.

        Returns:
            (1 + losses,) float32: the weighted sum and its parts, as `terms` names them.
        """
        grid = "patches" in self.active
        own = read_features(self.backbone, resized(images, self.size), grid=grid)
        logits = None if self.classifier is None else self.classifier(own.pooled)
        found: dict[str, Tensor] = {}
        if self.teacher is not None:
            seen = self.teacher.see(images * self.std + self.mean, grid=grid)
            if any(name in self.active for name in OF_FEATURES):
                found |= self._of_features(own.pooled, own.grid, seen.pooled, seen.grid)
            if self.config.needs_logits:
                assert logits is not None
                assert seen.logits is not None
                found |= self._of_logits(logits, seen.logits)
        if "labels" in self.active:
            assert logits is not None
            assert labels.target is not None
            found["labels"] = weighted_cross_entropy(at_least_float32(logits), labels.target, labels.weight)
        terms = [found[name] for name in self.active]
        total = torch.stack([weight * found[name] for name, weight in self.active.items()]).sum()
        return torch.stack([total, *(term.detach() for term in terms)])

    def write_beside(self, folder: Path, validation: dict[str, Any] | None) -> None:
        """The classifier, where there is one."""
        if self.classifier is not None:
            ClassifierHead(
                weight=self.classifier.weight.detach().float().cpu().numpy(),
                bias=self.classifier.bias.detach().float().cpu().numpy(),
                classes=self.classes,
                temperature=1.0,  # until it is calibrated, at the end
                threshold=0.0,
            ).write(folder)

    def _of_features(
        self, pooled: Tensor, grid: Tensor | None, seen: Tensor, seen_grid: Tensor | None
    ) -> Mapping[str, Tensor]:
        """Losses of features; statistics and queue take the batch in."""
        parts: Any = self.parts
        found: dict[str, Tensor] = {}
        if "pooled" in parts:
            if self.training:
                parts["pooled_statistics"].update(seen)
            projected, wanted = parts["pooled"](pooled), parts["pooled_statistics"](seen)
            if "pooled" in self.active:
                found["pooled"] = cosine_distance(projected, wanted)
            if "queue" in parts:
                queue = parts["queue"]
                kept = parts["pooled_statistics"](queue.features)
                found["relational"] = relational_loss(
                    projected, wanted, kept, queue.filled, temperature=self.config.relational_temperature
                )
                if self.training:
                    queue.add(seen)
        if "patches" in parts and grid is not None and seen_grid is not None:
            if self.training:
                parts["patch_statistics"].update(seen_grid)
            rows, columns = seen_grid.shape[1:3]
            projected = parts["patches"](resize_grid(grid, (rows, columns)))
            found["patches"] = cosine_distance(projected, parts["patch_statistics"](seen_grid))
        return found

    def _of_logits(self, own: Tensor, seen: Tensor) -> Mapping[str, Tensor]:
        """Losses of class probabilities."""
        if self.config.standardize_logits:
            own, seen = (standardize_logits(at_least_float32(x)) for x in (own, seen))
        losses = {"logits": logit_divergence, "dist": dist_loss}
        return {
            name: loss(own, seen, temperature=self.config.temperature)
            for name, loss in losses.items()
            if name in self.active
        }
