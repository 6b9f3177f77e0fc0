"""`umbel finetune BACKBONE --data DATA --out RUN`: a classifier for people who have labels."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import timm.data

from umbel.backbones import Backbone, load
from umbel.backbones.family import family_of
from umbel.backbones.folder import ModelCard
from umbel.backbones.open_clip_tower import PREFIX
from umbel.data.balance import ClassBalance
from umbel.data.index import find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.shard_set import ShardSet
from umbel.machine import choose_workers
from umbel.run import UserError, rank, say, write_atomic
from umbel.run_folder import RunFolder
from umbel.ssl.checkpoint import latest_checkpoint
from umbel.ssl.crowd_labels import read_soft, read_told, soft_targets, weights_of
from umbel.ssl.finetune_answers import answer, measure, validation_row
from umbel.ssl.finetune_config import COMMAND, FinetuneConfig
from umbel.ssl.finetune_data import FinetuneData, check_folder_labels, divide
from umbel.ssl.first_classifier import first_classifier
from umbel.ssl.fit_config import FIT_NOT_COMPARED
from umbel.ssl.fit_loop import fit
from umbel.ssl.opening import opened, refuse_own_data, resolve_machine
from umbel.ssl.targets import Targets

RESULT = "result.json"


def run(config: FinetuneConfig) -> None:
    """Make shards where DATA is a folder of photographs, then train, or continue; measure the best weights.

    Raises:
        UmbelError: see `umbel.ssl.fit_loop.fit`; and every fault of DATA, BACKBONE or the configuration.
    """
    refuse_own_data(config, [config.data])
    config.check_data()
    backbone = backbone_to_tune(config.backbone)
    config = resolve(config, backbone)
    with opened(config, COMMAND, ignore=FIT_NOT_COMPARED) as begun:
        state, folder, watch = begun.state, begun.folder, begun.watch
        try:
            with state.main_process_first(), watch.paused("making and opening the shards", times=math.inf):
                data = divide(labeled_shards(config, folder), config.data, share=config.held_out, seed=config.seed)
                targets = targets_of(config, data)
            workers = int(choose_workers(config.reader.workers, state.num_processes).value)
            card = card_to_write(backbone, config.views.size)
            prepare = timm.data.create_transform(
                **timm.data.resolve_data_config(pretrained_cfg=card.config()["pretrained_cfg"]), is_training=False
            )
            with watch.paused("the head's statistics"):
                classifier = first_classifier(
                    config, backbone, data, prepare, state.device, workers, begun=latest_checkpoint(folder.checkpoints)
                )
            answers = functools.partial(answer, prepare=prepare, device=config.device, workers=workers)
            last = fit(
                config,
                folder,
                data.train.shards,
                classifier,
                card,
                begun.slices,
                watch,
                title="fine-tuning",
                targets=targets,
                balance=ClassBalance(data.train.columns, power=config.labels.balance, seed=config.seed),
                validate=lambda learner: validation_row(answers(learner, data.validation)),
            )
        except UserError:
            folder.give_up()
            raise
        with watch.paused("measuring the best weights"):
            if rank() == 0:
                told = measure(last, classifier, data, answers, state.device)
                write_atomic(folder.path / RESULT, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        state.wait_for_everyone()
    say(f"done: {last}; `umbel export {config.out} --to bundle` makes what names plants by itself.")


def resolve(config: FinetuneConfig, backbone: Backbone) -> FinetuneConfig:
    """Replace every `auto` by what it stands for here, or stood for when the run was begun."""
    device, precision = resolve_machine(config, COMMAND)
    size = config.views.size or backbone.card.image_size
    if not config.views.size:
        say(f"views of {size} pixels: the backbone's own.")
    return dataclasses.replace(
        config,
        device=device,
        train=dataclasses.replace(config.train, precision=precision),
        views=dataclasses.replace(config.views, size=size),
    )


def backbone_to_tune(name: str) -> Backbone:
    """Load it.

    Raises:
        UserError: no such backbone, or none that a timm folder can hold.
    """
    if name.startswith(PREFIX):
        raise UserError(f"{name} is no model of timm's, as whose folder a run is kept: give another BACKBONE.")
    return load(name, any_size=True)


def card_to_write(backbone: Backbone, size: int) -> ModelCard:
    """How timm builds the backbone from a checkpoint, with images of another size."""
    model: Any = backbone.model
    arguments = backbone.card.arguments
    if family_of(model) in ("vit", "eva"):
        # The grid of its positions: timm knows it by the name, and not by a folder of ours.
        arguments = {"img_size": list(model.patch_embed.img_size)} | arguments | {"dynamic_img_size": True}
    return dataclasses.replace(backbone.card, arguments=arguments, image_size=size)


def labeled_shards(config: FinetuneConfig, folder: RunFolder) -> ShardSet:
    """DATA's shards; a folder of photographs is made into shards in the run folder first."""
    data = config.data
    if not find_shards(data):
        check_folder_labels(Path(data))
        out = folder.path / "shards"
        make_folder(MakeFolderConfig(data=Path(data), out=out, max_bad=config.reader.max_bad, seed=config.seed))
        data = str(out)
    return open_shards(data, cache_gib=config.reader.cache_gib, allow_pipe=config.reader.allow_pipe)


def targets_of(config: FinetuneConfig, data: FinetuneData) -> Targets:
    """What the training photographs' labels and their JSON make of each."""
    shards, soft = data.train.shards, None
    weight = np.ones(len(shards), dtype=np.float32)
    if config.labels.soft is not None or config.labels.weight != "none":
        told = read_told(shards)
        weight = weights_of(told, config.labels.weight, shards)
        if config.labels.soft is not None:
            soft = soft_targets(read_soft(config.labels.soft), told, shards, data.classes)
    return Targets(
        label=data.train.columns,
        classes=len(data.classes),
        weight=weight,
        smoothing=config.labels.smoothing,
        soft=soft,
    )
