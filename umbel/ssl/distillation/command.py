"""`umbel distill TEACHER --student NAME --data DATA --out RUN`: a small backbone that sees what a larger one sees."""

from __future__ import annotations

import dataclasses
import math

import torch

from umbel.backbones import load
from umbel.run import UserError, rank, say
from umbel.run_folder import RunFolder
from umbel.ssl.distillation.checks import (
    check_head,
    check_shapes,
    forget_teacher,
    note_teacher,
    other_teacher,
    teacher_facts,
)
from umbel.ssl.distillation.config import DISTILL_NOT_COMPARED, DistillConfig
from umbel.ssl.distillation.first_student import first_student
from umbel.ssl.distillation.outcome import write_outcome
from umbel.ssl.distillation.photographs import balance_of, classes_of, open_photographs, targets_of
from umbel.ssl.distillation.student import Student
from umbel.ssl.distillation.teacher import frozen, head_beside
from umbel.ssl.fit_loop import fit
from umbel.ssl.opening import opened, refuse_own_data, resolve_machine

COMMAND = "distill"


def run(config: DistillConfig) -> None:
    """Make shards where DATA is a folder of photographs, then train, or continue, and measure the student.

    Raises:
        UmbelError: see `umbel.ssl.fit_loop.fit`; and every fault of DATA or the configuration.
    """
    refuse_own_data(config, [config.data])
    config.check_data()
    config = resolve(config)
    teacher, head = load(config.teacher), head_beside(config.teacher)
    if not config.views.size:
        say(f"views of {teacher.card.image_size} px: the teacher's own.")
        config = dataclasses.replace(config, views=dataclasses.replace(config.views, size=teacher.card.image_size))
    check_head(config, head)
    torch.manual_seed(config.seed)
    backbone, card = first_student(config)
    shapes = check_shapes(config, backbone, teacher)
    asked_teacher = teacher_facts(teacher, head)

    def another_teacher(run: RunFolder) -> str | None:
        return other_teacher(run, asked_teacher)

    with opened(config, COMMAND, ignore=DISTILL_NOT_COMPARED, also=another_teacher) as begun:
        state, folder, watch = begun.state, begun.folder, begun.watch
        try:
            # Rank 0 makes the shards, the others wait for it (no pause of theirs) and find them.
            with state.main_process_first(), watch.paused("making and opening the shards", times=math.inf):
                everything, shards = open_photographs(config, folder)
                classes = classes_of(config, head, shards)
                balance = balance_of(config, shards)
                targets = targets_of(config, shards, classes) if "labels" in config.loss.active else None
            learner = Student(
                backbone,
                config.loss,
                size=card.image_size,
                mean=card.mean,
                std=card.std,
                shape=shapes[0],
                teacher=frozen(teacher, head),
                teacher_shape=shapes[1],
                classes=classes,
                photographs=shards.epoch,
            )
            note_teacher(folder, asked_teacher)
            # Both see the same view, cut at the larger of their sizes.
            side = max(config.views.size, teacher.card.image_size)
            if side != config.views.size:
                say(
                    f"views are cut at {side} px, as the teacher sees them; the student sees them at "
                    f"{config.views.size}."
                )
            loop = dataclasses.replace(config, views=dataclasses.replace(config.views, size=side))
            say(f"minimized: {' + '.join(f'{weight:g} {name}' for name, weight in config.loss.active.items())}.")
            last = fit(
                loop,
                folder,
                shards,
                learner,
                card,
                begun.slices,
                watch,
                title="distilling",
                targets=targets,
                balance=balance,
            )
        except UserError:
            forget_teacher(folder)
            folder.give_up()
            raise
        with watch.paused("measuring the student", times=math.inf):
            if rank() == 0:
                write_outcome(config, last, teacher, head, everything)
        state.wait_for_everyone()
    say(f"done: {last / 'backbone'} (timm folder); `umbel export {config.out}` copies and tests it.")


def resolve(config: DistillConfig) -> DistillConfig:
    """Replace every `auto` by what it stands for here, or stood for when the run was begun."""
    device, precision = resolve_machine(config, COMMAND)
    return dataclasses.replace(config, device=device, train=dataclasses.replace(config.train, precision=precision))
