"""`umbel finetune BACKBONE --data DATA --out RUN`: a classifier for people who have labels."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from torch import Tensor, nn

from umbel.backbones import Backbone, load
from umbel.backbones.family import family_of
from umbel.backbones.folder import ModelCard
from umbel.backbones.open_clip_tower import PREFIX
from umbel.data.balance import ClassBalance
from umbel.data.index import find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.order import Slices
from umbel.data.shard_set import ShardSet
from umbel.evaluation.answer_measures import Answers
from umbel.evaluation.embed import features_by
from umbel.evaluation.exporting.calibration import accepting, fit_head_temperature
from umbel.evaluation.extract import extract
from umbel.machine import choose_device, choose_precision, choose_workers
from umbel.rank_watch import RankWatch
from umbel.ranks import meet, new_start, rank_0_first
from umbel.run import UserError, rank, refuse_overlap, refuse_within, say, write_atomic
from umbel.run_folder import RunFolder
from umbel.ssl.checkpoint import latest_checkpoint, read_state
from umbel.ssl.classifier import Classifier
from umbel.ssl.crowd_labels import read_soft, read_told, soft_targets, weights_of
from umbel.ssl.finetune_config import COMMAND, FinetuneConfig
from umbel.ssl.finetune_data import FinetuneData, LabeledPart, check_folder_labels, divide, take_rows
from umbel.ssl.fit_config import FIT_NOT_COMPARED
from umbel.ssl.fit_loop import SCORE, fit
from umbel.ssl.same_batch import other_batch
from umbel.ssl.targets import Targets

RESULT = "result.json"
STATISTICS, BATCH = 1024, 128
"""Photographs that the head's statistics are of, and those of a batch that is only looked at."""


def run(config: FinetuneConfig) -> None:
    """Make shards where DATA is a folder of photographs, then train, or continue; measure the best weights.

    Raises:
        UmbelError: see `umbel.ssl.fit_loop.fit`; and every fault of DATA, BACKBONE or the configuration.
    """
    if config.force:
        refuse_overlap(config.data, config.out)
    if Path(config.data).is_dir() and not find_shards(config.data):
        refuse_within(config.out, config.data)
    config.check_data()
    backbone = backbone_to_tune(config.backbone)
    config = resolve(config, backbone)
    state = meet(cpu=config.device == "cpu")
    slices = Slices(
        micro_batch=config.train.batch,
        rank=state.process_index,
        world_size=state.num_processes,
        accumulation=config.train.accumulation,
    )
    opening = functools.partial(
        RunFolder.open,
        config.out,
        config,
        COMMAND,
        ignore=FIT_NOT_COMPARED,
        force=config.force,
        also=lambda run: other_batch(run, slices),
    )
    folder = rank_0_first(state, opening)
    with RankWatch(
        folder.path,
        start=new_start(state.device),
        rank=state.process_index,
        world_size=state.num_processes,
        timeout=config.train.timeout,
    ) as watch:
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
                slices,
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
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    begun = None if config.force else RunFolder(config.out).previous(COMMAND)
    asked = config.train.precision
    if asked == "auto" and begun is not None:
        asked = begun["train"]["precision"]
        say(f"precision {asked}: as {config.out} was begun.")
    else:
        precision = choose_precision(asked, device.value)
        asked = precision.value  # type: ignore[assignment]
        say(f"precision {precision.value}: {precision.reason}.")
    size = config.views.size or backbone.card.image_size
    if not config.views.size:
        say(f"views of {size} pixels: the backbone's own.")
    return dataclasses.replace(
        config,
        device=device.value,  # type: ignore[arg-type]
        train=dataclasses.replace(config.train, precision=asked),
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


def first_classifier(
    config: FinetuneConfig,
    backbone: Backbone,
    data: FinetuneData,
    prepare: Callable[[Any], Tensor],
    device: torch.device,
    workers: int,
    *,
    begun: Path | None,
) -> Classifier:
    """The classifier that training starts from, on the device.

    Args:
        begun: a checkpoint that all its numbers will be taken from: then nothing is looked at.

    Raises:
        UserError: a backbone that gives no row of features, or cannot take images of this size.
    """
    frozen = config.head == "linear"
    if begun is not None:
        nothing = torch.ones(backbone.dim)
        return Classifier(backbone.model, data.classes, mean=nothing, std=nothing, frozen=frozen).to(device)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(data.train.shards))[:STATISTICS])
    model = backbone.model.to(device).eval()
    try:
        features = extract(
            take_rows(data.train.shards, chosen),
            prepare,
            features_by(model, config.device)[0],
            provenance={},
            batch=BATCH,
            workers=workers,
            splits=None,
            title=None,
        ).features
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"backbone {backbone.source} gives no features of images of {config.views.size} pixels ({reason})."
        ) from error
    torch.manual_seed(config.seed)
    return Classifier(
        model,
        data.classes,
        mean=torch.from_numpy(features.mean(0)),
        std=torch.from_numpy(features.std(0)),
        frozen=frozen,
    ).to(device)


class _Logits(nn.Module):
    """A classifier as a function of images alone."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.logits(images)


def answer(
    classifier: Classifier, part: LabeledPart, *, prepare: Callable[[Any], Tensor], device: str, workers: int
) -> Answers:
    """Logits of photographs, prepared as the backbone is evaluated; damaged ones are left out."""
    forward, _ = features_by(_Logits(classifier).eval(), device)
    made = extract(
        part.shards,
        prepare,
        forward,
        provenance={},
        batch=BATCH,
        workers=workers,
        splits=None,
        title=None,
        pin=device == "cuda",
    )
    place = {part.shards.key(sample): column for sample, column in enumerate(part.columns.tolist())}
    return Answers(logits=made.features, truth=np.array([place[key] for key in made.keys]))


def validation_row(found: Answers) -> dict[str, Any]:
    """A row of validation.jsonl, with the temperature and the threshold that its photographs give."""
    temperature = fit_head_temperature(found.logits.astype(np.float64), found.truth)
    return {
        SCORE: found.score(),
        "top1": float(found.right.mean()),
        "loss": found.loss(),
        "temperature": temperature,
        "threshold": accepting(found.confidence(temperature)),
        "photographs": len(found.truth),
    }


def measure(
    last: Path,
    classifier: Classifier,
    data: FinetuneData,
    answers: Callable[[Classifier, LabeledPart], Answers],
    device: torch.device,
) -> dict[str, Any]:
    """The figures of the best weights, with intervals; they are said, too."""
    best = read_state(last, device, needed=("best",))["best"]
    classifier.load_state_dict(best["weights"])
    classifier.eval()
    row = json.loads(best["row"])
    told: dict[str, Any] = {
        "format": 1,
        "step": row["step"],
        "classes": list(data.classes),
        "validated_on": data.words,
        "temperature": row["temperature"],
        "threshold": row["threshold"],
    }
    for name, part in (("val", data.validation), ("test", data.test)):
        if part is None:
            continue
        found = answers(classifier, part)
        figures = found.measures(row["temperature"], row["threshold"])
        told[name] = {"photographs": len(found.truth)} | {n: dataclasses.asdict(e) for n, e in figures.items()}
        say(f"{name} ({len(found.truth):,} photographs; best weights, of step {row['step']}):")
        for measure_name, figure in figures.items():
            say(f"  {WORDS[measure_name]}: {figure}")
    return told


WORDS = {
    "top1": "right",
    "macro_top1": "right, mean over classes",
    "top5": "right among the five likeliest",
    "calibration_error_raw": "calibration error before the temperature",
    "calibration_error": "calibration error",
    "answered": "answered, not unknown",
    "right_where_answered": "right where answered",
}
