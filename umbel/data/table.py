"""Reading the user's CSV and JSON files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from umbel.run import UserError


def read_table(path: Path, *, needed: Sequence[str], tabs: bool = False) -> Iterator[dict[str, str]]:
    """The rows of a CSV file (.tsv, or `tabs`: separated by tabs) in UTF-8; names and values without blanks around.

    Raises:
        UserError: no such file, not text, a missing column, a row of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter="\t" if tabs or path.suffix.lower() == ".tsv" else ",", strict=True)
            names = [name.strip() for name in next(lines, [])]
            for name in needed:
                if name not in names:
                    raise UserError(f"{path} has no column '{name}'; it has: {', '.join(names) or 'nothing'}.")
            if len(set(names)) < len(names):
                raise UserError(f"{path} has a column twice: {', '.join(names)}.")
            for values in lines:
                if len(values) not in (0, len(names)):
                    raise UserError(
                        f"{path}, line {lines.line_num}: it has {len(values)} values, where its head has {len(names)}."
                    )
                if values:
                    yield dict(zip(names, map(str.strip, values), strict=True))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}).") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.")
    return content
