"""Columns of tables (Parquet, CSV, JSON lines) as pyarrow reads them: batch by batch, text dictionary-encoded.

Whole numbers written as text become numbers, so that ids of one file meet those of another.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from umbel.config import nearest
from umbel.data.votes.ids import numbers_where_whole
from umbel.run import Bar, UserError

Column: TypeAlias = pa.ChunkedArray
FORMATS = (".parquet", ".csv", ".jsonl")
MEGABYTE = 1_000_000
FIRST_RECORDS = 1000
MEASURES = {"score": pa.float64(), "conf": pa.float64(), "acc": pa.float64(), "valid": pa.bool_()}
"""Columns that hold measurements; all others hold ids."""


def read_columns(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Column]:
    """Some columns of a table, of one length; optional ones where they are there.

    Raises:
        UserError: no such file, another format, cut off, a column that is missing, or one of a wrong kind.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path} must end in one of {', '.join(FORMATS)}.")
    with told_as_user_errors(path):
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty.")
        names = _names(path)
        missing = [name for name in required if name not in names]
        if missing:
            raise UserError(
                f"{path} has no column '{missing[0]}'{nearest(missing[0], names)}; there are: {', '.join(names)}."
            )
        wanted = [*required, *(name for name in optional if name in names)]
        chunks: dict[str, list[pa.Array]] = {name: [] for name in wanted}
        for batch in _batches(path, wanted):
            for name in wanted:
                chunks[name].append(_encoded(batch.column(name), name, path))
        return {name: _joined(parts) for name, parts in chunks.items()}


@contextlib.contextmanager
def told_as_user_errors(path: Path) -> Iterator[None]:
    """What is wrong with a file, also in pyarrow's words, as one sentence."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file.")
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
        raise UserError(f"{path} cannot be read ({first}).") from error


def _names(path: Path) -> list[str]:
    match path.suffix.lower():
        case ".parquet":
            return list(pa.parquet.read_schema(path).names)
        case ".csv":
            return list(pa.csv.open_csv(path).schema.names)
        case _:
            return list(_first_values(path))


def _batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The file's batches, with progress by its bytes."""
    with (
        pa.OSFile(str(path)) as file,
        Bar("reading megabytes", file.size() // MEGABYTE) as bar,
    ):
        if path.suffix.lower() == ".parquet":
            parquet = pa.parquet.ParquetFile(file)
            total = max(parquet.metadata.num_rows, 1)
            seen = 0
            for batch in parquet.iter_batches(1 << 20, columns=names):
                seen += len(batch)
                bar.advance(bar.total * seen // total - bar.done)
                yield batch
            return
        if path.suffix.lower() == ".csv":
            text = {name: MEASURES.get(name, pa.string()) for name in names}
            convert = pa.csv.ConvertOptions(
                include_columns=names, column_types=text, null_values=[""], strings_can_be_null=True
            )
            reader = pa.csv.open_csv(file, pa.csv.ReadOptions(block_size=16 << 20), convert_options=convert)
        else:
            first = _first_values(path)
            schema = pa.schema([(name, _json_type(first[name], name, path)) for name in names])
            parse = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            reader = pa.json.open_json(file, pa.json.ReadOptions(block_size=16 << 20), parse)
        for batch in reader:
            bar.advance(min(file.tell() // MEGABYTE, bar.total) - bar.done)
            yield batch


def _first_values(path: Path) -> dict[str, Any]:
    """The first value that is told of each column, in the first records of JSON lines: they tell names and types."""
    told: dict[str, Any] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.islice(file, FIRST_RECORDS), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} cannot be read: line {number} is not JSON ({error}).") from error
            if not isinstance(record, dict):
                raise UserError(f"{path} must hold a JSON object a line, not {type(record).__name__}.")
            told |= {name: value for name, value in record.items() if told.get(name) is None}
    return told


def _json_type(value: Any, name: str, path: Path) -> pa.DataType:
    if name in MEASURES:
        return MEASURES[name]
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise UserError(f"{path}: {name} must be text or a whole number, not {json.dumps(value)}.")
    return pa.int64() if isinstance(value, int) else pa.string()


def _encoded(column: pa.Array, name: str, path: Path) -> pa.Array:
    """A batch's column: text dictionary-encoded, numbers as they are."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if name in MEASURES:
        return column.cast(MEASURES[name])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.dictionary(pa.int32(), pa.string())) if kind != pa.string() else column
        return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_null(kind):
        return column.cast(pa.string()).dictionary_encode()
    raise UserError(f"{path}: column '{name}' must hold whole numbers or text, not {kind}.")


def _joined(parts: list[pa.Array]) -> Column:
    """The batches as one column; text that is whole numbers throughout as numbers."""
    if not parts:
        return pa.chunked_array([], pa.int64())
    return numbers_where_whole(pa.chunked_array(parts))
