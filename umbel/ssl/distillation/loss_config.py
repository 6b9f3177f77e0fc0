"""Which losses a distillation minimizes, and by which weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from umbel.ssl.distillation.feature_queue import LONGEST
from umbel.ssl.distillation.projector import ProjectorKind

WEIGHTS = ("pooled", "patches", "relational", "logits", "dist", "labels")
OF_LOGITS = ("logits", "dist")
OF_FEATURES = ("pooled", "patches", "relational")


@dataclass(frozen=True, kw_only=True)
class DistillLossConfig:
    """Weights of the losses, whose weighted sum is minimized; by default without labels."""

    teach: bool = True
    """Learn from the teacher; --loss.no-teach: from the labels alone, by cross-entropy of weight 1, which is the
    baseline at equal steps. The teacher then never runs in training."""
    pooled: float = 1.0
    """Cosine distance of pooled features."""
    patches: float = 1.0
    """Cosine distance of patch features; a ConvNeXt's are its last map, resized to the teacher's grid."""
    relational: float = 0.0
    """Divergence of similarities to a queue of the teacher's features."""
    logits: float = 0.0
    """Divergence of class probabilities, for a teacher with a classifier (a run of umbel finetune)."""
    dist: float = 0.0
    """DIST: correlations of class probabilities, within photographs and within classes; also for such a teacher."""
    labels: float = 0.0
    """Cross-entropy with the photographs' labels, soft ones and weights of votes included."""
    temperature: float = 2.0
    """Temperature of `logits` and `dist`, which are multiplied by its square."""
    standardize_logits: bool = False
    """Compare logits of mean 0 and deviation 1 over the classes of each photograph."""
    relational_temperature: float = 0.07
    """Temperature of the similarities."""
    queue: int = LONGEST
    """Features in the queue; half the photographs at most."""
    projector: ProjectorKind = "linear"
    """From the student's features to the teacher's: linear, or mlp with a layer of 2048; not exported."""

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} must be a number from 0, not {getattr(self, name)}")
        for name in ("temperature", "relational_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} must be positive, not {getattr(self, name):g}")
        if self.queue < 1:
            raise ValueError(f"loss.queue must be at least 1, not {self.queue}")
        if self.patches and not any(getattr(self, name) for name in WEIGHTS if name != "patches"):
            raise ValueError("loss.patches alone leaves the pooled feature untrained: give loss.pooled too")
        if not self.active:
            raise ValueError(f"one of loss.{', loss.'.join(WEIGHTS)} must be above 0")

    @property
    def active(self) -> dict[str, float]:
        """The weights above 0 by name; of the labels alone where nothing is taught."""
        if not self.teach:
            return {"labels": 1.0}
        return {name: getattr(self, name) for name in WEIGHTS if getattr(self, name)}

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher runs in training."""
        return any(name in self.active for name in (*OF_FEATURES, *OF_LOGITS))

    @property
    def needs_logits(self) -> bool:
        """Whether the teacher needs a classifier."""
        return any(name in self.active for name in OF_LOGITS)

    @property
    def classifies(self) -> bool:
        """Whether the student has a classifier."""
        return self.needs_logits or "labels" in self.active
