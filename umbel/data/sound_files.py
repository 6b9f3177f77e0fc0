"""Sounds as .wav files: a folder of them, and one of them as samples."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from umbel.data.folder import read_folder
from umbel.data.photograph_set import PhotographSet
from umbel.run import UserError


class BadSoundError(ValueError):
    """A file that is no sound, or an empty one."""


def read_sounds(folder: Path) -> PhotographSet:
    """The sounds of a folder, with splits and classes as photographs' folders have them.

    Raises:
        UserError: no such folder, no sounds in it, or two of one name.
    """
    found = read_folder(folder, "train", find=find_sounds, what="sounds (.wav)")
    splits, known = {}, dict[str, str]()
    for split, rows in found.splits.items():
        renamed = [dataclasses.replace(row, key=Path(row.path).stem) for row in rows]
        for row in renamed:
            if known.setdefault(row.key, row.path) != row.path:
                raise UserError(f"{known[row.key]} and {row.path} have one name, which is the key: rename one of them.")
        splits[split] = tuple(renamed)
    return dataclasses.replace(found, splits=splits)


def find_sounds(folder: Path) -> list[Path]:
    """All .wav files below a folder, sorted; hidden files and folders are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".wav"
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_sound(file: Path, rate: int) -> np.ndarray:
    """A .wav file as (S,) float32 samples in [-1, 1] at `rate` a second, channels averaged.

    Raises:
        BadSoundError: not such a file, or nothing in it.
    """
    try:
        own, samples = wavfile.read(file)
    except (OSError, ValueError, EOFError, LookupError, ArithmeticError, NameError, TypeError, struct.error) as error:
        # SciPy has no error of its own for a damaged file.
        raise BadSoundError(f"no .wav file that can be read ({error})") from error
    if samples.dtype == np.uint8:
        sound = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        sound = samples.astype(np.float32) / float(-np.iinfo(samples.dtype).min)
    else:
        sound = samples.astype(np.float32)
    if sound.ndim == 2:
        sound = sound.mean(1)
    if not len(sound) or own < 1 or not np.isfinite(sound).all():
        raise BadSoundError("it holds no sound")
    if own != rate:
        from scipy.signal import resample_poly  # takes a second to import

        common = math.gcd(int(own), rate)
        sound = resample_poly(sound, rate // common, own // common).astype(np.float32)
    found: np.ndarray = sound
    return found
