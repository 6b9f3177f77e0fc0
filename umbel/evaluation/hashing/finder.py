"""Search in stored codes: which engine answers is chosen once, and told with its reason."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from umbel.evaluation.hashing.codes import INDEX, Codes
from umbel.evaluation.hashing.index import open_index, search_lists
from umbel.evaluation.hashing.search import choose_engine, hamming_search, search_flat
from umbel.run import say

FLAT_FROM = 16
"""Queries from which on a copy of all codes in faiss's memory is worth its making."""


class Finder:
    """The nearest of stored codes by Hamming distance, ties by the lowest row."""

    def __init__(self, codes: Codes, folder: Path, *, exact: bool = False, queries: int = 1) -> None:
        """Choose an engine, and say which.

        Args:
            folder: where the codes are from; an index lies there.
            exact: do without the index.
            queries: how many are expected, at least.

        Raises:
            UserError: the index cannot be read, or is another set's.
        """
        self.codes = codes
        self.probes = 0
        self.index: Any = None
        told = codes.provenance.get("index")
        faiss = importlib.util.find_spec("faiss") is not None
        if isinstance(told, dict) and (folder / INDEX).is_file() and faiss and not exact:
            self.index, self.probes = open_index(folder / INDEX, codes.packed, told), int(told["probes"])
            recall = next((f", {name} {told[name]:.1%}" for name in told if name.startswith("recall@")), "")
            self.how = f"{self.probes} of {told['lists']:,} lists of the index{recall}"
        elif choose_engine() == "faiss" and len(codes) and queries >= FLAT_FROM:
            self.index = importlib.import_module("faiss").IndexBinaryFlat(8 * codes.packed.shape[1])
            self.index.add(np.ascontiguousarray(codes.packed))
            self.how = f"exact, all {len(codes):,} codes, by faiss"
        else:
            why = "" if faiss else " (faiss is not installed)"
            self.how = f"exact, all {len(codes):,} codes, by numpy where they lie{why}"
        say(f"search: {self.how}.")

    def nearest(self, packed: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest, at most all, to packed queries (Q, ceil(K / 8)): distances (Q, k) int32 and rows int64."""
        if self.probes:
            return search_lists(self.index, packed, k, self.probes)
        if self.index is not None:
            return search_flat(self.index, packed, min(k, len(self.codes)))
        return hamming_search(packed, self.codes.packed, k, engine="numpy")
