"""Texts as vectors, without a vocabulary and without a download: hashed counts of words and of their letters.

The coder on top is what learns; an ending or a spelling that training did not see still shares most of its pieces.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

WIDTH = 1024
_LETTERS = (3, 4, 5)
_WORD = re.compile(r"\w+")


def text_features(texts: Sequence[str], width: int = WIDTH) -> np.ndarray:
    """(N, width) float32 of length 1; zero for a text without a letter or digit.

    Equal texts have equal features on every machine. Upper case, accents written in two characters, punctuation and
    the order of words make no difference.
    """
    features = np.zeros((len(texts), width), dtype=np.float32)
    known: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text in known:
            features[row] = features[known[text]]
            continue
        known[text] = row
        for piece, count in Counter(pieces(text)).items():
            hashed = zlib.crc32(piece.encode())
            # The sign keeps pieces that share a column from adding up (feature hashing, Weinberger et al. 2009).
            features[row, hashed % width] += np.sqrt(count) * (1 if hashed >> 31 else -1)
        length = np.linalg.norm(features[row])
        features[row] /= length if length else 1
    return features


def pieces(text: str) -> Iterator[str]:
    """Every word, and the runs of 3 to 5 letters in it with its two ends marked."""
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        yield word
        marked = f"<{word}>"
        for length in _LETTERS:
            for first in range(len(marked) - length + 1):
                yield marked[first : first + length]
