"""The nearest codes: by Hamming distance (faiss where it is installed, numpy otherwise) and asymmetrically.

All searches are exact and break ties by the lowest row; the two engines give the same rows.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

import numpy as np

Engine = Literal["auto", "faiss", "numpy"]
BLOCK = 1 << 16
# Set bits of every byte, for a numpy without bitwise_count (before 2.0).
BYTE_COUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


def choose_engine(engine: Engine = "auto") -> Literal["faiss", "numpy"]:
    """faiss where it is installed, unless numpy is asked for.

    Raises:
        ModuleNotFoundError: faiss is asked for and not installed.
    """
    if engine == "auto":
        return "numpy" if importlib.util.find_spec("faiss") is None else "faiss"
    return engine


def hamming_search(
    queries: np.ndarray, database: np.ndarray, k: int, *, engine: Engine = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes by Hamming distance, ties by the lowest row.

    Args:
        queries: (Q, bytes) uint8, packed.
        database: (N, bytes) uint8, packed.
        k: neighbors, at least 1; N where it is more.

    Returns:
        (distances, rows): (Q, min(k, N)) int32 and int64.

    Raises:
        ValueError: widths that differ, or k below 1.
    """
    _check(queries.shape[1], database.shape[1], k)
    k = min(k, len(database))
    if not k:
        return np.empty((len(queries), 0), np.int32), np.empty((len(queries), 0), np.int64)
    if choose_engine(engine) == "faiss":
        return _search_by_faiss(queries, database, k)
    words = as_words(database)
    return _stack([_scan(words, query, k) for query in as_words(queries)], k, np.int32)


def _scan(words: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k codes that differ least from one query, ties by the lowest row: (N, words) and (words,) uint64."""
    distances = np.empty(len(words), np.int32)
    count = np.zeros(64 * words.shape[1] + 1, np.int64)
    # Block by block: what lies between stays in the processor's cache, and memory is that of the answer.
    for first in range(0, len(words), BLOCK):
        differing = popcount(words[first : first + BLOCK] ^ query)
        distances[first : first + BLOCK] = differing
        count += np.bincount(differing, minlength=len(count))
    # Distances are few whole numbers: counting them finds the k-th without sorting.
    rows = np.flatnonzero(distances <= np.searchsorted(np.cumsum(count), k))
    found, order = nearest_rows(distances[rows], k)
    return found, rows[order]


def _search_by_faiss(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss = importlib.import_module("faiss")
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(np.ascontiguousarray(database))
    return search_flat(index, queries, k)


def search_flat(index: Any, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes, at most all, of faiss's exact index, ties by the lowest row: (Q, k) int32 and int64."""
    distances, rows = index.search(np.ascontiguousarray(queries), k)
    # faiss keeps the lowest rows among ties; their order among themselves is nowhere promised.
    order = in_order(distances, rows)
    return np.take_along_axis(distances, order, -1), np.take_along_axis(rows, order, -1)


def in_order(distances: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The order by distance, ties by the lowest row, along the last axis."""
    order: np.ndarray = np.lexsort((rows, distances), axis=-1)
    return order


def asymmetric_search(logits: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes to real-valued queries, by the L1 distance between sigmoid(z) and the code.

    Args:
        logits: (Q, K) of the queries.
        database: (N, ceil(K / 8)) uint8, packed.
        k: neighbors, at least 1; N where it is more.

    Returns:
        (distances, rows): (Q, min(k, N)) float64 and int64, ties by the lowest row.

    Raises:
        ValueError: widths that differ, or k below 1.
    """
    _check(-(-logits.shape[1] // 8), database.shape[1], k)
    k = min(k, len(database))
    by_byte = np.asfortranarray(database)
    return _stack([nearest_rows(asymmetric_distances(query, by_byte), k) for query in logits], k, np.float64)


def asymmetric_distances(logits: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """The L1 distance between sigmoid(z) and codes: (K,) and (n, ceil(K / 8)) -> (n,) float64.

    Summed byte by byte in one order: equal codes have equal distances to the last bit, and ties stay ties.
    """
    distances = np.zeros(len(packed))
    for table, column in zip(distance_tables(logits[None])[0], packed.T, strict=True):
        distances += table[column]
    return distances


def distance_tables(logits: np.ndarray) -> np.ndarray:
    """L1 distance of sigmoid(z) to every value of each byte: (Q, K) -> (Q, bytes, 256) float64."""
    count, bits = logits.shape
    # tanh does not overflow: sigmoid(z) = (1 + tanh(z / 2)) / 2.
    probability = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    padded = np.zeros((count, -(-bits // 8) * 8))
    padded[:, :bits] = probability
    values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64)  # (256, 8)
    by_byte = padded.reshape(count, -(-bits // 8), 8)
    tables: np.ndarray = by_byte.sum(-1, keepdims=True) + (1.0 - 2.0 * by_byte) @ values.T
    return tables


def cosine_search(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest features by cosine: (Q, C) and (N, C) -> distances 1 - cosine and rows, (Q, min(k, N))."""
    _check(queries.shape[1], database.shape[1], k)
    k = min(k, len(database))
    unit = _unit(database)
    found = [nearest_rows(1.0 - unit @ query, k) for query in _unit(queries)]
    return _stack(found, k, unit.dtype.type)


def nearest_rows(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of (N,) distances and their rows, ties by the lowest row."""
    if k < len(distances):
        limit = np.partition(distances, k - 1)[k - 1]
        rows = np.flatnonzero(distances <= limit)
    else:
        rows = np.arange(len(distances))
    rows = rows[np.argsort(distances[rows], kind="stable")[:k]]
    return distances[rows], rows


def as_words(packed: np.ndarray) -> np.ndarray:
    """(N, bytes) uint8 -> (N, words) uint64, padded with zeros."""
    spare = -packed.shape[1] % 8
    padded = np.pad(packed, ((0, 0), (0, spare))) if spare else packed
    return np.ascontiguousarray(padded).view(np.uint64)


def popcount(words: np.ndarray) -> np.ndarray:
    """Set bits of each row: (N, words) uint64 -> (N,) int64."""
    counts: np.ndarray
    if hasattr(np, "bitwise_count"):
        counts = np.zeros(len(words), np.int64)
        for column in words.T:
            counts += np.bitwise_count(column)
        return counts
    counts = BYTE_COUNT[words.view(np.uint8)].sum(1, dtype=np.int64)
    return counts


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit: np.ndarray = features / np.where(length > 0, length, 1)
    return unit


def _stack(found: list[tuple[np.ndarray, np.ndarray]], k: int, kind: type[np.generic]) -> tuple[np.ndarray, np.ndarray]:
    if not found:
        return np.empty((0, k), kind), np.empty((0, k), np.int64)
    return np.stack([d for d, _ in found]), np.stack([rows for _, rows in found])


def _check(query_width: int, database_width: int, k: int) -> None:
    if query_width != database_width:
        raise ValueError(f"queries are {query_width} wide, and the database {database_width}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
