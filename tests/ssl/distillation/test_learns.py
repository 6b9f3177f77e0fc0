"""A short distillation brings the student nearer to its teacher on images that it never saw."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from umbel.ssl.distillation.features import shape_of
from umbel.ssl.distillation.loss_config import DistillLossConfig
from umbel.ssl.distillation.student import Student
from umbel.ssl.distillation.teacher import Teacher
from umbel.ssl.learner import Labels

SIZE = 64


def images(count: int, seed: int) -> Tensor:
    """Blots of color, (N, 3, 64, 64)."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((count, 3, 4, 4), dtype=np.float32))
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize(("student", "teacher"), [("test_convnext", "test_vit"), ("test_vit", "test_convnext")])
def test_a_student_comes_near_to_its_teacher(student: str, teacher: str) -> None:
    torch.manual_seed(0)
    nets = [
        timm.create_model(name, num_classes=0, **({"img_size": SIZE} if name == "test_vit" else {}))
        for name in (student, teacher)
    ]
    learner = Student(
        nets[0],
        DistillLossConfig(relational=0.1),
        size=SIZE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        shape=shape_of(nets[0], student, SIZE),
        teacher=Teacher(nets[1], size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3),
        teacher_shape=shape_of(nets[1], teacher, SIZE),
        classes=(),
        photographs=256,
    )
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    labels = Labels(target=None, weight=torch.ones(16))
    seen, held_out = (images(256, 0) - 0.5) / 0.25, (images(64, 1) - 0.5) / 0.25
    learner(seen[:128], labels)  # statistics of more than a batch, for the first measure

    def distances() -> Tensor:
        with torch.no_grad():
            found: Tensor = learner.eval()(held_out, labels)[1:3]
        learner.train()
        return found

    before = distances()
    for step in range(60):
        rows = torch.arange(step * 16, (step + 1) * 16) % len(seen)
        learner(seen[rows], labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = distances()
    assert learner.terms == ("loss", "pooled", "patches", "relational")
    assert (before > 0.8).all(), before  # nothing in common
    assert (after < before - 0.15).all(), (before, after)
