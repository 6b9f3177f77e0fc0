"""Reading votes and what is told by observation (authors, machine, scores, truth), whatever the file's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from umbel.data.votes.crowdswe import read_answers, read_lines, read_mapping
from umbel.data.votes.encoded import Repeated, Votes, encode, with_authors
from umbel.data.votes.ids import Codes, factorize, one_dictionary
from umbel.data.votes.machine import MachineVotes
from umbel.data.votes.tables import MEASURES, Column, read_columns, told_as_user_errors


@dataclass(frozen=True, kw_only=True, eq=False)
class VoteTable:
    """Columns of a file of votes, one row a vote; ids are whole numbers or text."""

    observations: Column
    users: Column
    labels: Column
    authors: Column | None = None
    """The author of the row's observation; missing where not known."""
    machine: Column | None = None
    """The species that a machine says of the row's observation; missing where it says none."""
    scores: Column | None = None
    """The machine's score of that species."""


def read_votes(path: Path, optional: Sequence[str] = ("author", "machine", "score")) -> VoteTable:
    """A file of votes: Parquet, CSV or JSON lines with the columns observation, user and species, and those of
    `optional` that are there; or answers.json of CrowdSWE.

    Raises:
        UserError: the file cannot be used; the message says why.
    """
    if path.suffix.lower() == ".json":
        observations, users, labels = read_answers(path)
        return VoteTable(observations=observations, users=users, labels=labels)
    columns = read_columns(path, ("observation", "user", "species"), optional)
    return VoteTable(
        observations=columns["observation"],
        users=columns["user"],
        labels=columns["species"],
        authors=columns.get("author"),
        machine=columns.get("machine"),
        scores=columns.get("score"),
    )


def read_by_observation(path: Path, name: str) -> tuple[Column, Column]:
    """Observations and what a file tells of them: lines of text, {"observation": value}, or a table's column `name`.

    Raises:
        UserError: the file cannot be used; the message says why.
    """
    match path.suffix.lower():
        case ".txt":
            observations, values = read_lines(path)
        case ".json":
            observations, values = read_mapping(path)
        case _:
            columns = read_columns(path, ("observation", name))
            observations, values = columns["observation"], columns[name]
    if name in MEASURES and not pa.types.is_floating(values.type):
        with told_as_user_errors(path):
            values = values.cast(MEASURES[name])
    return observations, values


def encode_table(
    table: VoteTable, *, authors: tuple[Column, Column] | None = None, repeated: Repeated = "last"
) -> tuple[Votes, MachineVotes | None]:
    """Votes as codes with the authors, and the machine's votes, of the table itself or of a file of authors.

    Raises:
        ValueError: ids of a wrong kind, no votes, or rows that contradict each other about an observation.
    """
    votes = encode(table.observations, table.users, table.labels, repeated=repeated)
    if authors is not None:
        votes = with_authors(votes, *authors)
    if table.authors is None and table.machine is None:
        return votes, None
    code = factorize(table.observations, "observation")[1]
    if authors is None and table.authors is not None:
        votes = with_authors(votes, votes.observations, _spread(table.authors, code, votes, "author"))
    if table.machine is None:
        return votes, None
    said = _spread(table.machine, code, votes, "machine's species")
    there = said.is_valid().to_numpy(zero_copy_only=False)
    scores = np.full(len(there), np.nan)
    if table.scores is not None:
        given = table.scores.to_numpy()
        scored = ~np.isnan(given)
        scores[code[scored]] = given[scored]
    return votes, MachineVotes(
        observations=votes.observations[there],
        labels=said.drop_null(),
        scores=None if table.scores is None else scores[there],
    )


def _spread(column: Column, code: Codes, votes: Votes, what: str) -> pa.Array:
    """(N,) what the rows of each observation tell in a column; missing where none tells it.

    Raises:
        ValueError: rows of one observation tell different things.
    """
    encoded = one_dictionary(column)
    told: NDArray[np.int32] = encoded.indices.fill_null(-1).to_numpy()
    rows = told >= 0
    spread = np.full(len(votes.observations), -1, dtype=np.int32)
    spread[code[rows]] = told[rows]
    differing = np.flatnonzero(rows & (spread[code] != told))
    if len(differing):
        observation = votes.observations[code[differing[0]]]
        raise ValueError(f"the rows of observation {observation} name more than one {what}")
    return encoded.dictionary.take(pa.array(spread, mask=spread < 0))
