"""The search index beside a large set of codes: faiss's inverted lists over cells of Hamming space.

Below some millions of codes the exact scan answers in milliseconds, and no index is made. Within the lists that are
looked through the answer is exact, ties by the lowest row; equal codes stand in one list.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from umbel.evaluation.hashing.search import hamming_search, in_order
from umbel.run import Bar, UserError, say

IndexChoice = Literal["auto", "ivf", "none"]
LARGE = 4_000_000
"""Codes from which on lists save more than they cost."""
RECALL, TOP, SAMPLE = 0.95, 10, 100
ADDED = 1 << 18
TRAINED_ON = 64
"""Codes for each list that its cells are learned from."""


def build_index(packed: np.ndarray, bits: int, path: Path, choice: IndexChoice) -> dict[str, Any] | None:
    """Write an index where it helps, and say why or why not.

    Args:
        packed: (N, ceil(K / 8)) uint8.

    Returns:
        What its record tells: lists, lists to look through, and the recall that they gave on a sample of the codes;
        None without an index.

    Raises:
        UserError: an index is asked for, and faiss is not installed.
    """
    count = len(packed)
    if choice == "none" or not count:
        return None
    if choice == "auto" and count < LARGE:
        say(f"search: exact, without an index: {count:,} codes are fewer than {LARGE:,}.")
        return None
    if importlib.util.find_spec("faiss") is None:
        if choice == "ivf":
            raise UserError("--index ivf needs faiss: pip install 'umbel[search]', or choose --index none.")
        say(f"search: exact, without an index: {count:,} codes would have one, but faiss is not installed.")
        return None
    lists = 1 << max(0, round(math.log2(math.sqrt(count))) - 1)
    say(f"learning {lists:,} lists for a search index of {count:,} codes.")
    index = _trained(packed, lists)
    probes, recall = _enough(index, packed, lists)
    if recall < RECALL and choice == "auto":
        say(
            f"search: exact, without an index: even a quarter of {lists:,} lists holds only {recall:.1%} of the "
            f"{TOP} nearest codes; these codes form no clusters."
        )
        return None
    importlib.import_module("faiss").write_index_binary(index, str(path))
    say(
        f"search: an index (faiss IVF) of {lists:,} lists for {count:,} codes; {probes} are looked through, which hold "
        f"{recall:.1%} of the {TOP} nearest ({SAMPLE} of the codes as queries)."
    )
    return {"kind": "ivf", "lists": lists, "probes": probes, f"recall@{TOP}": round(recall, 4)}


def _trained(packed: np.ndarray, lists: int) -> Any:
    faiss = importlib.import_module("faiss")
    width = 8 * packed.shape[1]
    quantizer = faiss.IndexBinaryFlat(width)
    index = faiss.IndexBinaryIVF(quantizer, width, lists)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.seed = 0
    rows = np.random.default_rng(0).permutation(len(packed))[: TRAINED_ON * lists]
    index.cp.min_points_per_centroid = 1  # small sets with an index are those of a person who asked for it
    index.train(np.ascontiguousarray(packed[np.sort(rows)]))
    with Bar("indexing codes", len(packed)) as bar:
        for first in range(0, len(packed), ADDED):
            piece = np.ascontiguousarray(packed[first : first + ADDED])
            index.add(piece)
            bar.advance(len(piece))
    return index


def _enough(index: Any, packed: np.ndarray, lists: int) -> tuple[int, float]:
    """The smallest power of two of lists that holds enough of the nearest codes, and how many of them."""
    rows = np.random.default_rng(1).permutation(len(packed))[:SAMPLE]
    queries = np.ascontiguousarray(packed[np.sort(rows)])
    exact, _ = hamming_search(queries, packed, TOP)
    probes, recall = 1, 0.0
    while True:
        found, _ = search_lists(index, queries, TOP, probes)
        # By distance: of equally near codes any will do.
        recall = float((found <= exact[:, -1:]).mean()) if found.shape == exact.shape else 0.0
        if recall >= RECALL or probes * 8 > lists:
            return probes, recall
        probes *= 2


def open_index(path: Path, codes: np.ndarray, told: dict[str, Any]) -> Any:
    """The index beside codes, its lists memory-mapped.

    Raises:
        UserError: it cannot be read, or is one of other codes.
    """
    faiss = importlib.import_module("faiss")
    try:
        index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise UserError(f"the search index {path} cannot be read ({reason}): delete it, or encode again.") from error
    if (index.ntotal, index.code_size) != codes.shape or index.nlist != told["lists"]:
        raise UserError(f"the search index {path} is one of other codes: delete it, or encode again.")
    lists = faiss.downcast_InvertedLists(index.invlists)
    if hasattr(lists, "prefetch_nthread"):
        lists.prefetch_nthread = 0  # 32 threads begun for every search would take ten times as long as the search
    return index


def search_lists(index: Any, queries: np.ndarray, k: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes of the lists looked through, ties by the lowest row: (Q, k) int32 and int64.

    Where the lists of a query hold fewer than k codes, more are looked through for all.
    """
    k = min(k, index.ntotal)
    while True:
        index.nprobe = probes
        queries = np.ascontiguousarray(queries)
        farthest = index.search(queries, k)[0]
        if probes >= index.nlist or not (farthest == np.iinfo(np.int32).max).any():
            break
        probes = min(2 * probes, index.nlist)
    # faiss keeps any of the codes that tie for the last place: all within its distance are asked for instead.
    distances, rows = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    radii = farthest.max(1)
    for radius in np.unique(radii).tolist():
        asked = np.flatnonzero(radii == radius)
        ends, near, found = index.range_search(queries[asked], radius + 1)
        ends = ends.astype(np.int64)  # of faiss: unsigned, which with int64 makes floats
        for number, first, end in zip(asked, ends, ends[1:], strict=False):
            order = first + in_order(near[first:end].astype(np.int32), found[first:end])[:k]
            distances[number], rows[number] = near[order], found[order]
    return distances, rows
