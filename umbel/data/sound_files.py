"""Sounds as .wav files: a folder of them, and one of them as samples."""

from __future__ import annotations

import dataclasses
import math
import struct
import warnings
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from umbel.data.folder import read_folder
from umbel.data.photograph_set import PhotographSet
from umbel.run import UserError

HIGHEST_RATE = 1_000_000
"""Of recorders of bats' calls some hundred thousand; resampling from much more would not fit into memory."""


class BadSoundError(ValueError):
    """A file that is no sound, or an empty one."""


def read_sounds(folder: Path) -> PhotographSet:
    """The sounds of a folder, with splits and classes as photographs' folders have them.

    Raises:
        UserError: no such folder, no sounds in it, two of one name, or a name that cannot be a key.
    """
    found = read_folder(folder, "train", find=find_sounds, what="sounds (.wav)")
    splits, known = {}, dict[str, str]()
    for row in (row for rows in found.splits.values() for row in rows):
        name = Path(row.path).stem
        if not name.isprintable():  # also what is no UTF-8
            raise UserError(f"the name of {row.path!a} cannot be a key (a line break, or no UTF-8): rename it.")
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
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", wavfile.WavFileWarning)  # chunks that are no sound are warned of too
            own, samples = wavfile.read(file)
    except (OSError, ValueError, EOFError, LookupError, ArithmeticError, NameError, TypeError, struct.error) as error:
        # SciPy has no error of its own for a damaged file.
        raise BadSoundError(f"no .wav file that can be read ({error})") from error
    if any("prematurely" in str(warning.message) for warning in told):
        raise BadSoundError("it is cut off: its header tells of more than there is")
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
    if own > HIGHEST_RATE:
        raise BadSoundError(f"its header tells of {own:,} samples a second")
    if own != rate:
        from scipy.signal import resample_poly  # takes a second to import

        common = math.gcd(int(own), rate)
        sound = resample_poly(sound, rate // common, own // common).astype(np.float32)
    found: np.ndarray = sound
    return found
