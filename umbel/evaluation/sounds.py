"""A folder of sounds (.wav) to embeddings by a CLAP model: `umbel embed clap:NAME --data FOLDER --out DIR`.

Photographs' folders are the model: `split/class/file`, `class/file`, or flat. A sound's key is its file's name without
the ending, so that it can be paired with what else bears that name.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from umbel.backbones.clap import Clap
from umbel.backbones.text_tower import CLAP
from umbel.data.sound_files import BadSoundError, read_sound, read_sounds
from umbel.evaluation.embed_folder import already_there
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import versions
from umbel.evaluation.reading import ReadConfig
from umbel.run import Bar, UserError, say


def embed_sounds(
    name: str, data: Path, out: Path, *, splits: tuple[str, ...], reading: ReadConfig, device: str, force: bool
) -> None:
    """Embed and store; files that cannot be read are left out and named.

    Args:
        name: of the CLAP model, with the prefix.
        reading: how photographs would be read; sounds have no tokens or sizes.

    Raises:
        UserError: no such model, no sounds, two of one name, something else at `out`, or several processes.
    """
    if reading != ReadConfig():
        raise UserError(f"{name} embeds sounds: leave --tokens, --image-size and --protocol out.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{name} embeds in one process: leave the launcher out.", everywhere=True)
    clap, found = Clap(name.removeprefix(CLAP)), read_sounds(data)
    preprocessing = f"mono at {clap.rate} Hz; mean of windows of {clap.extractor.max_length_s} s; features of length 1"
    inputs = {
        "backbone": clap.sha256_of_sound,
        "preprocessing": preprocessing,
        "data": found.fingerprint,
        "splits": sorted(splits),
    }
    if already_there(out, inputs, inputs, force=force):
        return
    missing = next((split for split in splits if split not in found.splits), None)
    if missing is not None:
        raise UserError(f"{data} has no split {missing}; there are: {', '.join(found.splits)}.")
    chosen = {split: rows for split, rows in found.splits.items() if not splits or split in splits}
    started, sounds = time.monotonic(), [(split, row) for split, rows in chosen.items() for row in rows]
    clap.network.to(device)
    kept, features = [], []
    with Bar("embedding sounds", len(sounds)) as bar:
        for split, sound in sounds:
            try:
                heard = clap.sound_features(read_sound(Path(sound.path), clap.rate))
                if not np.isfinite(heard).all():
                    raise BadSoundError("its features are not finite")
                features.append(heard)
                kept.append((split, sound))
            except BadSoundError as error:
                say(f"left out: {sound.path}: {error}.")
            bar.advance()
    if not kept:
        raise UserError(f"none of the sounds in {data} can be read.")
    told: dict[str, Any] = {
        "backbone": {"source": clap.name, "sha256": clap.sha256_of_sound},
        "preprocessing": preprocessing,
        "data": {"sounds": str(data), "fingerprint": found.fingerprint},
        "inputs": inputs,
        "device": device,
        "versions": versions(),
        "left_out": len(sounds) - len(kept),
        "seconds": round(time.monotonic() - started, 3),
    }
    names = tuple(chosen)
    Embeddings(
        features=np.stack(features).astype(np.float32),
        label=np.array([-1 if sound.label is None else sound.label for _, sound in kept], np.int64),
        split=np.array([names.index(split) for split, _ in kept], np.int64),
        keys=tuple(sound.key for _, sound in kept),
        splits=names,
        classes=found.classes,
        provenance=told,
    ).save(out)
    say(f"{out}: {len(kept)} embeddings of width {clap.width}.")
