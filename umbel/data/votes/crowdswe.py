"""The files of Pl@ntNet-CrowdSWE (Zenodo 10782465), read as streams.

answers.json is {"observation": {"user": species}}; ai_answers.json and ai_scores.json {"observation": value};
authors.txt and ground_truth.txt hold one value a line, line n (from 0) for observation n, -1 for none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from umbel.data.votes.ids import numbers_where_whole
from umbel.data.votes.tables import MEGABYTE, Column, told_as_user_errors
from umbel.run import Bar, UserError

BATCH = 1 << 14
BUFFER = 1 << 20


def read_answers(path: Path) -> tuple[Column, Column, Column]:
    """observation, user and species of every vote, in the order of the file; a user given twice keeps both votes.

    Raises:
        UserError: no such file, cut off, not JSON, or of another shape.
    """
    columns = _Columns(3)
    observations, users, labels = columns.pending
    observation = user = None
    inside = False
    with _events(path) as events:
        for event, value in events:
            # Five events a vote, tens of millions of them: the commonest are asked for first.
            if event == "map_key":
                if inside:
                    user = value
                else:
                    observation = value
            elif inside and (event == "number" or event == "string"):
                observations.append(observation)
                users.append(user)
                labels.append(value)
            elif inside and event == "end_map":
                inside = False
                columns.pack_if_full()
            elif event == "start_map" and not inside and observation is not None:
                inside = True
            elif event not in ("start_map", "end_map") or inside:
                raise _misshapen(path, '{"observation": {"user": species}}', observation, event, value)
    first, second, third = columns.done(path)
    return first, second, third


def read_mapping(path: Path) -> tuple[Column, Column]:
    """The keys and values of {"observation": value}; values are ids or numbers.

    Raises:
        UserError: no such file, cut off, not JSON, or of another shape.
    """
    columns = _Columns(2)
    keys, values = columns.pending
    key = None
    with _events(path) as events:
        for event, value in events:
            if event == "map_key":
                key = value
            elif key is not None and event in ("number", "string"):
                keys.append(key)
                values.append(value)
                columns.pack_if_full()
            elif event != "end_map" and (event != "start_map" or key is not None):
                raise _misshapen(path, '{"observation": value}', key, event, value)
    first, second = columns.done(path)
    return first, second


def read_lines(path: Path) -> tuple[Column, Column]:
    """Line numbers and ids of a text file with one id a line; -1 becomes a missing id.

    Raises:
        UserError: no such file, not text, or an empty line.
    """
    with told_as_user_errors(path):
        # A table of one column, whose separator no id holds.
        parse = pa.csv.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False)
        convert = pa.csv.ConvertOptions(column_types={"id": pa.string()}, null_values=["-1"], strings_can_be_null=True)
        lines = pa.csv.read_csv(path, pa.csv.ReadOptions(column_names=["id"]), parse, convert)["id"]
    empty = pc.index(lines, "").as_py()
    if empty >= 0:
        raise UserError(f"{path}: line {empty + 1} is empty; it must hold an id, or -1 for none.")
    return pa.chunked_array([pa.array(np.arange(len(lines)))]), numbers_where_whole(lines)


class _Columns:
    """Grows columns of a stream, a batch of Python objects at a time."""

    def __init__(self, count: int) -> None:
        self.pending: list[list[Any]] = [[] for _ in range(count)]
        self.chunks: list[list[pa.Array]] = [[] for _ in range(count)]

    def pack_if_full(self) -> None:
        """Turn what is pending into compact chunks, once there is enough of it."""
        if len(self.pending[0]) >= BATCH:
            self._pack()

    def _pack(self) -> None:
        for chunks, column in zip(self.chunks, self.pending, strict=True):
            packed = pa.array(column)
            chunks.append(packed.dictionary_encode() if pa.types.is_string(packed.type) else packed)
            column.clear()

    def done(self, path: Path) -> list[Column]:
        """The columns.

        Raises:
            UserError: a column holds numbers and text.
        """
        with told_as_user_errors(path):
            self._pack()
            filled = [[chunk for chunk in chunks if len(chunk)] for chunks in self.chunks]
            return [numbers_where_whole(pa.chunked_array(chunks, None if chunks else pa.int64())) for chunks in filled]


@contextlib.contextmanager
def _events(path: Path) -> Iterator[Iterator[tuple[str, Any]]]:
    """The JSON events of a file, with progress by its bytes.

    Raises:
        UserError: no such file, cut off, or not JSON.
    """
    with told_as_user_errors(path), path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty.")
        with Bar("reading megabytes", size // MEGABYTE) as bar:
            try:
                yield ijson.basic_parse(_Counted(file, bar), use_float=True, buf_size=BUFFER)
            except ijson.IncompleteJSONError as error:
                raise UserError(f"{path} is cut off or not JSON ({_sentence(error)}).") from error
            except ijson.JSONError as error:
                raise UserError(f"{path} is not JSON ({_sentence(error)}).") from error


class _Counted:
    """A file that moves a bar as it is read."""

    def __init__(self, file: Any, bar: Bar) -> None:
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        part: bytes = self.file.read(size)
        self.bar.advance(min(self.file.tell() // MEGABYTE, self.bar.total) - self.bar.done)
        return part


def _sentence(error: Exception) -> str:
    """The first line of a parser's message."""
    told = error.args[0] if error.args else "no reason given"
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
    return (text.splitlines() or [""])[0].strip().rstrip(".") or "no reason given"


def _misshapen(path: Path, shape: str, observation: str | None, event: str, value: Any) -> UserError:
    """What is wrong with a file of JSON, from the parser's event that does not fit."""
    words = {"start_map": "an object", "start_array": "a list", "null": "null"}
    where = "its top level" if observation is None else f"observation {observation}"
    return UserError(f"{path} must be {shape}, but {where} holds {words.get(event, value)}.")
