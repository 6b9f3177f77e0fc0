"""Photographs to codes without storing their features: each part's codes are kept as soon as they are made.

Under a launcher every rank encodes its parts, and rank 0 joins them; a killed command goes on from the parts there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umbel.backbones import Backbone
from umbel.data.folder import check_shards
from umbel.data.index import ShardSet, open_shards
from umbel.evaluation.embed import check_loading, features_by, preprocessing, provenance_of, weights_sha256
from umbel.evaluation.embed_parts import gather, make_together, say_left_out
from umbel.evaluation.extract import check_finite, described, origin, pace, versions
from umbel.evaluation.hashing.codes import INDEX, KEYS, TENSORS, Codes, pack, write_arrays, write_record
from umbel.evaluation.hashing.index import IndexChoice, build_index
from umbel.evaluation.hashing.stored import Hasher, already_made, backbone_name, backbone_sha256, own_backbone
from umbel.evaluation.parts import Parts, other_parts
from umbel.evaluation.reading import read_again
from umbel.evaluation.tensor_map import map_tensors
from umbel.machine import DeviceChoice, choose_device
from umbel.ranks import from_rank_0, meet, rank_0_first
from umbel.run import UserError, atomic_folder, move_aside, rank, say


@dataclass(frozen=True, kw_only=True)
class EncodePhotographsConfig:
    """How photographs are read that no embeddings are stored of."""

    data: str | None = None
    """Shards to encode instead of embeddings."""
    backbone: str | None = None
    """The backbone that the coder was fitted for, where it does not lie where the coder says."""
    batch: int = 256
    """Photographs in a batch."""
    part: int = 8192
    """Photographs in a part, which is stored as soon as it is made: a command that is killed loses no more."""
    device: DeviceChoice = "auto"
    """Where the backbone runs."""
    workers: int = -1
    """Processes that decode and resize; -1: chosen by the processors at hand, 0: this process itself."""

    def __post_init__(self) -> None:
        check_loading(self.batch, self.workers)
        if self.part < 1:
            raise ValueError(f"part must be at least 1, not {self.part}")


def encode_photographs(
    hasher: Hasher,
    told: dict[str, Any],
    coder: dict[str, str],
    data: str,
    out: Path,
    *,
    config: EncodePhotographsConfig,
    index: IndexChoice = "none",
    force: bool = False,
) -> None:
    """Encode the photographs of shards and store their codes, or go on where a killed command was.

    Args:
        told: the coder's provenance.
        coder: its folder, method and hash, as the codes will tell them.

    Raises:
        UmbelError: another backbone than the coder's, no shards, something else at `out`, or another rank failed.
    """
    check_shards(data)
    reader = coders_backbone(hasher, told, config.backbone, coder["folder"])
    device = choose_device(config.device)
    say(f"device {device.value}: {device.reason}.")
    state = meet(cpu=device.value == "cpu")
    shards = open_shards(data)
    source = provenance_of(reader, device.value)
    asked: dict[str, Any] = {
        "coder": coder["sha256"],
        "backbone": source["backbone"]["sha256"],
        "preprocessing": source["preprocessing"],
        "data": shards.fingerprint(),
    }
    if index != "auto":
        asked["index"] = index
    parts = Parts(out.with_name(f".{out.name}.parts"), count=len(shards), size=config.part)
    of_parts = asked | {"precision": source["precision"], "part": config.part, "versions": versions()}
    if from_rank_0(int(rank_0_first(state, lambda: _there(out, asked, parts, of_parts, force=force))), state.device):
        return
    forward = codes_by(reader, hasher, device.value)
    reading: dict[str, Any] = {"batch": config.batch, "workers": config.workers, "device": device.value}
    if not make_together(parts, shards, reader.transform, forward, state=state, **reading):
        return
    provenance = {"asked": asked, "coder": coder, "reading": told.get("reading")} | source
    codes, rate = _join(parts, shards, hasher, out, provenance, index)
    say(f"{out}: {len(codes):,} codes of {codes.bits} bits, {codes.packed.nbytes:,} bytes, {rate} images/s.")


def coders_backbone(hasher: Hasher, told: dict[str, Any], name: str | None, coder: str) -> Backbone:
    """The backbone that a coder was fitted for, reading photographs as it did then.

    Raises:
        UserError: no such backbone, or another one.
    """
    name = name or own_backbone(Path(coder)) or backbone_name(told)
    if name is None:
        raise UserError(f"{coder} does not tell the backbone that it was fitted for: give it with --backbone.")
    backbone = read_again(name, told)
    ours, theirs = weights_sha256(backbone), backbone_sha256(told)
    if backbone.dim != hasher.width:
        raise UserError(f"{name} makes features of width {backbone.dim}, and {coder} was fitted for {hasher.width}.")
    if theirs not in (None, ours):
        raise UserError(f"{name} has other weights ({ours[:12]}) than {coder} was fitted for ({str(theirs)[:12]}).")
    if told.get("preprocessing") not in (None, preprocessing(backbone)):
        raise UserError(
            f"{name} reads photographs otherwise ({preprocessing(backbone)}) than {coder} was fitted for "
            f"({told['preprocessing']}): embed them as then, and give --embeddings."
        )
    return backbone


def codes_by(backbone: Backbone, hasher: Hasher, device: str) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) -> (B, ceil(K / 8)) uint8."""
    features_of, _ = features_by(backbone.model.to(device).eval(), device)

    def codes_of(images: Tensor) -> Tensor:
        features = features_of(images).float().cpu().numpy()
        check_finite(features)
        return torch.from_numpy(pack(hasher.encode(features)))

    return codes_of


def _there(out: Path, asked: dict[str, Any], parts: Parts, of_parts: dict[str, Any], *, force: bool) -> bool:
    """On rank 0: whether `out` holds these codes; if not, the parts' folder is made or gone on with."""
    if rank() != 0:
        return False
    if already_made(out, "codes.json", asked, force=force):
        say(f"{out} already holds these codes.")
        return True
    difference = other_parts(parts.folder, of_parts)
    if difference and not force:
        raise UserError(
            f"{parts.folder} holds a part of other codes ({difference}): choose another --out, or --force to move it "
            "aside."
        )
    if difference:
        say(f"moved aside: {move_aside(parts.folder)}")
    parts.begin(of_parts)
    return False


def _join(
    parts: Parts, shards: ShardSet, hasher: Hasher, out: Path, provenance: dict[str, Any], index: IndexChoice
) -> tuple[Codes, float]:
    """Join all parts into `out`, which appears whole or not at all; the codes and how many a second."""
    found = gather(parts, len(shards))
    told = described(shards, found.rows)
    speed = pace(len(found.rows), found.seconds)
    with atomic_folder(out) as beside:
        (beside / KEYS).write_bytes("".join(f"{key}\n" for key in told["keys"]).encode())
        shape = (len(found.rows), found.width)
        write_arrays(beside, shape, [told["label"]], [told["split"]], parts.features())
        packed = map_tensors(beside / TENSORS)["packed"]
        made = build_index(packed, hasher.bits, beside / INDEX, index)
        facts = provenance | origin(shards, found.left_out) | speed | {"index": made}
        write_record(beside, Codes(packed=packed, bits=hasher.bits, **told, provenance=facts))
    parts.remove()
    say_left_out(found.left_out)
    return Codes.load(out), speed["images_per_second"]
