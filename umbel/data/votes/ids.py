"""Ids of any kind as codes 0 .. n - 1 in the order of the sorted distinct ids, without a Python loop over them.

Whole numbers stay numpy's int64; text is an object array of str. pyarrow is imported for text alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Ids = NDArray[Any]
"""Distinct ids in sorted order: int64, or object (str)."""
Codes = NDArray[np.int32]
WHOLE_NUMBER = "^(0|-?[1-9][0-9]{0,17})$"
"""Text that is one number's only spelling: "007" stays text, or it would become another id."""


def factorize(ids: ArrayLike | pa.Array | pa.ChunkedArray, what: str) -> tuple[Ids, Codes]:
    """The distinct ids, sorted, and every id's place among them.

    Args:
        ids: (V,) whole numbers or text.
        what: the ids in one word, for messages.

    Raises:
        ValueError: another shape or type, negative numbers, or missing ids.
    """
    if not isinstance(ids, np.ndarray) and hasattr(ids, "type"):
        return _factorize_arrow(ids, what)
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{what} ids must be of shape (V,), not {array.shape}")
    if array.dtype.kind in "iu":
        return _factorize_numbers(array, what)
    if array.dtype.kind not in "OUT" and array.size:
        raise ValueError(f"{what} ids must be whole numbers or text, not {array.dtype}")
    return _factorize_objects(array, what)


def _factorize_numbers(numbers: NDArray[Any], what: str) -> tuple[Ids, Codes]:
    if not numbers.size:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
    least, most = int(numbers.min()), int(numbers.max())
    if least < 0:
        raise ValueError(f"{what} ids must not be negative, but {least} is there")
    if most >= 1 << 63:
        raise ValueError(f"{what} ids must be below 2**63, but {most} is there")
    if most - least < 4 * len(numbers) + 1024:
        # Dense numbers are ranked by a table of what is there, several times faster than by sorting.
        there = np.zeros(most - least + 1, dtype=bool)
        offsets = numbers - numbers.dtype.type(least)
        there[offsets] = True
        rank = np.cumsum(there, dtype=np.int32) - np.int32(1)
        return np.flatnonzero(there).astype(np.int64) + least, rank[offsets]
    values, codes = np.unique(numbers, return_inverse=True)
    return values.astype(np.int64), codes.astype(np.int32)


def _factorize_objects(array: NDArray[Any], what: str) -> tuple[Ids, Codes]:
    """Text, or Python numbers in an object array."""
    import pyarrow as pa

    try:
        column = pa.array(array.tolist() if array.dtype.kind == "T" else array)
    except pa.ArrowException as error:
        raise ValueError(f"{what} ids must be all whole numbers or all text ({error})") from error
    return _factorize_arrow(column, what)


def _factorize_arrow(column: pa.Array | pa.ChunkedArray, what: str) -> tuple[Ids, Codes]:
    """A column of whole numbers or text, dictionary-encoded or plain."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        raise ValueError(f"{column.null_count} {what} ids are missing")
    if pa.types.is_integer(column.type):
        return _factorize_numbers(column.to_numpy(), what)
    if len(column) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(value_type) or pa.types.is_large_string(value_type)):
        raise ValueError(f"{what} ids must be whole numbers or text, not {value_type}")
    column = one_dictionary(column)
    order = pc.array_sort_indices(column.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    values = column.dictionary.take(pa.array(order)).to_numpy(zero_copy_only=False)
    return values, rank[column.indices.to_numpy()]


def one_dictionary(column: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """A column as places in its distinct values, in any order."""
    import pyarrow as pa

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded


def ordered(keys: NDArray[np.int64], bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stable order of keys from 0 to below `bound`, (V,), and the keys in it; `keys` is not to be used again."""
    count = len(keys)
    if bound * max(count, 1) >= 1 << 63:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    # Key and position in one number: numpy sorts plain numbers several times faster than it finds an order.
    keys *= count
    keys += np.arange(count)
    keys.sort()
    sorted_keys = keys // count
    keys -= sorted_keys * count
    return keys, sorted_keys


def numbers_where_whole(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of text as numbers where every id in it is a whole number written the one usual way.

    Files that know text alone (CSV, keys of JSON) then sort 9 before 10, and join with files that know numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        if not all(_all_whole(chunk.dictionary) for chunk in chunks):
            return column
        return pa.chunked_array([chunk.dictionary.cast(pa.int64()).take(chunk.indices) for chunk in chunks], pa.int64())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.cast(column, pa.int64()) if _all_whole(column) else column
    return column


def _all_whole(text: pa.Array | pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(text, WHOLE_NUMBER), min_count=0).as_py())


def refuse_repeats(row: NDArray[np.int32], among: Ids, what: str) -> None:
    """Refuse rows that name an id of `among` more than once; -1 stands for others.

    Raises:
        ValueError: some do; the message says `what` of which observation.
    """
    times = np.bincount(row[row >= 0], minlength=1)
    if times.max() > 1:
        raise ValueError(f"observation {among[times.argmax()]} has more than one {what}")


def places(ids: ArrayLike | pa.Array | pa.ChunkedArray, among: Ids) -> NDArray[np.int32]:
    """Where each id stands among sorted distinct ids; -1 where it does not, or is missing.

    Numbers and text meet as text: the observation 7 of one file is the observation "7" of another.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if hasattr(ids, "type") and not isinstance(ids, np.ndarray):
        column = ids
    else:
        array = np.asarray(ids)
        if array.dtype.kind == "f" and array.size:
            raise ValueError("ids must be whole numbers or text, not fractions")
        if array.dtype.kind in "iu" and among.dtype.kind in "iu":
            found = np.searchsorted(among, array).clip(max=max(len(among) - 1, 0))
            there = among[found] == array if len(among) else np.zeros(len(array), dtype=bool)
            return np.where(there, found, -1).astype(np.int32)
        column = pa.array(array)
    known = pa.array(among)
    if column.type != known.type:
        column, known = pc.cast(column, pa.string()), pc.cast(known, pa.string())
    found = pc.fill_null(pc.index_in(column, value_set=known, skip_nulls=True), -1)
    result: NDArray[np.int32] = found.to_numpy(zero_copy_only=False) if hasattr(found, "type") else found
    return result.astype(np.int32)
