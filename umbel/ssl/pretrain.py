"""`umbel pretrain DATA --out RUN`: from photographs to a backbone that timm loads."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from umbel.augment.views import INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
from umbel.backbones import load
from umbel.backbones.build import build, check_size, model_arguments
from umbel.backbones.family import family_of, pooling_of
from umbel.backbones.folder import ModelCard
from umbel.data.index import PRETRAINING_SPLITS, ShardSet, find_shards, open_shards
from umbel.data.make import MakeFolderConfig, make_folder
from umbel.data.mixing import mix_sets
from umbel.run import UserError, say
from umbel.run_folder import RunFolder
from umbel.ssl.network import check_backbone
from umbel.ssl.opening import opened, refuse_own_data, resolve_machine
from umbel.ssl.pretrain_config import NOT_COMPARED, PretrainConfig
from umbel.ssl.probe_set import open_probe
from umbel.ssl.recipe_choice import FEW_PHOTOGRAPHS, count_all
from umbel.ssl.train import train

COMMAND = "pretrain"


def run(config: PretrainConfig) -> None:
    """Make shards where DATA is a folder of photographs, then train, or continue.

    Raises:
        UmbelError: see `umbel.ssl.train.train`; and every fault of DATA or the configuration.
    """
    refuse_own_data(config, config.all_data)
    count = count_all(config)
    config = resolve(config)
    if config.init is None and count < FEW_PHOTOGRAPHS:
        say(
            f"{count:,} photographs are few to start from nothing: pretrained weights serve them better "
            "(--init BACKBONE, or --recipe dinov2-continue)."
        )
    torch.manual_seed(config.seed)
    backbone, card = first_backbone(config)
    with opened(config, COMMAND, ignore=NOT_COMPARED) as begun:
        folder, watch = begun.folder, begun.watch
        # Rank 0 makes the shards, the others wait for it (no pause of theirs) and find them.
        try:
            with begun.state.main_process_first(), watch.paused("making and opening the shards", times=math.inf):
                probe = open_probe(config.probe, config.out / "probe-shards", card)
                shards = pretraining_shards(config, folder)
            last = train(config, folder, shards, backbone, card, begun.slices, watch, probe)
        except UserError:
            folder.give_up()
            raise
    say(f"done: {last / 'backbone'} (timm folder); `umbel export {config.out}` copies and tests it.")


def resolve(config: PretrainConfig) -> PretrainConfig:
    """Replace every `auto` by what it stands for here, or stood for when the run was begun."""
    device, precision = resolve_machine(config, COMMAND)
    return dataclasses.replace(config, device=device, train=dataclasses.replace(config.train, precision=precision))


def first_backbone(config: PretrainConfig) -> tuple[Any, ModelCard]:
    """The backbone that training starts from, and how timm builds it.

    A pretrained backbone keeps its own mean and deviation: its weights expect them.

    Raises:
        UserError: a backbone that cannot be trained, or not with these settings.
    """
    size = config.views.global_size
    if config.init is None:
        backbone: Any = build(config.backbone, size)
        name, arguments = config.backbone.name, model_arguments(config.backbone, size)
        mean, std = INAT_PLANTAE_MEAN, INAT_PLANTAE_STD
        if family_of(backbone) == "convnext":
            say(f"{name} is a ConvNeXt: backbone.registers and backbone.layer_scale do not apply to it.")
    else:
        loaded = load(config.init, any_size=True)
        backbone, name, arguments = loaded.model, loaded.card.architecture, loaded.card.arguments
        mean, std = loaded.card.mean, loaded.card.std  # type: ignore[assignment]
        say(f"starting from {loaded.source}; its mean {mean} and deviation {std} are kept.")
    check_backbone(
        backbone,
        config.init or name,
        drop_path=config.optim.drop_path,
        masked_views=config.masks.views,
        patch_weight=config.loss.patch_weight,
    )
    for view, side in (("global", size), ("local", config.views.local_size)):
        check_size(backbone, view, side)
    if config.init is not None and family_of(backbone) != "convnext":
        arguments = take_class_token(backbone, arguments)
    card = ModelCard(
        architecture=name,
        arguments=arguments,
        image_size=size,
        mean=mean,
        std=std,
        num_features=backbone.num_features,
        global_pool=pooling_of(backbone),
        first_conv=backbone.pretrained_cfg["first_conv"],
        classifier=backbone.pretrained_cfg["classifier"],
    )
    return backbone, card


def take_class_token(backbone: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Let a loaded ViT's feature be its class token, which is what training shapes; returns timm's arguments for it.

    The grid of its positions is written down too: timm knows it by the name, and not by a folder of ours.
    """
    arguments = {"img_size": list(backbone.patch_embed.img_size)} | arguments
    if backbone.global_pool == "token":
        return arguments
    say(f"its feature is the class token from now on; it was made by the pooling {backbone.global_pool or 'none'}.")
    # The final norm stays before or after the pooling, where its weights have their name.
    norm_after = "use_fc_norm" if family_of(backbone) == "eva" else "fc_norm"
    arguments = arguments | {"global_pool": "token", norm_after: not isinstance(backbone.fc_norm, nn.Identity)}
    backbone.reset_classifier(0, "token")
    return arguments


def pretraining_shards(config: PretrainConfig, folder: RunFolder) -> ShardSet:
    """Open the train and unlabeled shards of DATA and what is mixed in.

    A folder of photographs is made into shards in the run folder first.
    """
    sets = []
    for number, data in enumerate((config.data, *config.mix.data)):
        if not find_shards(data):
            out = folder.path / (f"shards-{number}" if number else "shards")
            make_folder(MakeFolderConfig(data=Path(data), out=out, max_bad=config.reader.max_bad, seed=config.seed))
            data = str(out)
        shards = open_shards(data, cache_gib=config.reader.cache_gib, allow_pipe=config.reader.allow_pipe)
        sets.append(shards.select(PRETRAINING_SPLITS))
    return mix_sets(sets, config.mix)
