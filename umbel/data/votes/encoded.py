"""Votes as codes: ids factorized once, repeated votes settled, authors found; sorted by observation.

Letters: V votes, N observations, U users, K species, C cells (distinct pairs of observation and species).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from umbel.data.votes.ids import Codes, Ids, factorize, ordered, places, refuse_repeats

Repeated = Literal["last", "first", "refuse"]
"""Which of several votes of one user on one observation counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """Votes sorted by observation; within an observation in the order in which they were given."""

    observation: Codes
    """(V,) place of each vote's observation in `observations`."""
    user: Codes
    """(V,) place in `users`."""
    label: Codes
    """(V,) place in `labels`."""
    author: Codes
    """(N,) place of the author of each observation in `users`; -1: not known, or without any vote."""
    observations: Ids
    """(N,) distinct, sorted."""
    users: Ids
    """(U,) distinct, sorted."""
    labels: Ids
    """(K,) distinct, sorted."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was passed over while encoding, in words, with its number."""
    machine: bool = False
    """Whether the machine votes too, as user U, behind `users`."""

    def __len__(self) -> int:
        return len(self.observation)

    @property
    def voters(self) -> int:
        """The users, and the machine where it votes."""
        return len(self.users) + self.machine

    @property
    def own(self) -> NDArray[np.bool_]:
        """(V,) whether a vote is on the voter's own observation."""
        own: NDArray[np.bool_] = self.author[self.observation] == self.user
        return own


def encode(
    observations: Any,
    users: Any,
    labels: Any,
    *,
    authors: Mapping[Any, Any] | ArrayLike | None = None,
    repeated: Repeated = "last",
) -> Votes:
    """Encode votes.

    Args:
        observations, users, labels: (V,) ids, whole numbers or text (arrays, or columns of pyarrow).
        authors: observation -> user, or (N,) the author of each distinct observation in sorted order; an author who is
            missing (None, -1, absent) or never voted is not known.
        repeated: which of several votes of one user on one observation counts.

    Raises:
        ValueError: columns of different lengths, ids of a wrong kind, no votes, or repeated ones that are refused.
    """
    if repeated not in get_args(Repeated):
        raise ValueError(f"repeated must be one of {', '.join(get_args(Repeated))}, not '{repeated}'")
    lengths = {len(observations), len(users), len(labels)}
    if len(lengths) > 1:
        raise ValueError(
            f"observations, users and labels must be of one length, not {len(observations)}, {len(users)}, "
            f"{len(labels)}"
        )
    if lengths == {0}:
        raise ValueError("there are no votes")
    known_observations, observation = factorize(observations, "observation")
    known_users, user = factorize(users, "user")
    known_labels, label = factorize(labels, "species")
    votes = Votes(
        observation=observation,
        user=user,
        label=label,
        author=np.full(len(known_observations), -1, dtype=np.int32),
        observations=known_observations,
        users=known_users,
        labels=known_labels,
    )
    votes = _settle_repeated(sorted_by_observation(votes), repeated)
    return votes if authors is None else _authors(votes, authors)


def sorted_by_observation(votes: Votes) -> Votes:
    """The votes sorted by observation, stably."""
    if bool(np.all(votes.observation[1:] >= votes.observation[:-1])):
        return votes
    order, _ = ordered(votes.observation.astype(np.int64), len(votes.observations))
    return _rows(votes, order)


def _rows(votes: Votes, rows: NDArray[Any]) -> Votes:
    return dataclasses.replace(
        votes, observation=votes.observation[rows], user=votes.user[rows], label=votes.label[rows]
    )


def _settle_repeated(votes: Votes, repeated: Repeated) -> Votes:
    """Keep one vote of each user on each observation, in the place of the first of them."""
    pair = votes.observation.astype(np.int64)
    pair *= len(votes.users)
    pair += votes.user
    order, pair = ordered(pair, len(votes.observations) * len(votes.users))
    same = pair[1:] == pair[:-1]
    again = int(np.count_nonzero(same))
    if not again:
        return votes
    if repeated == "refuse":
        first = int(pair[1:][same][0])
        observation, user = (int(code) for code in divmod(first, len(votes.users)))
        raise ValueError(
            f"{again} votes repeat a user on an observation, the first of them user {votes.users[user]} on observation "
            f"{votes.observations[observation]}"
        )
    firsts = order[np.concatenate([[True], ~same])]
    if repeated == "last":
        label = votes.label.copy()
        label[firsts] = votes.label[order[np.concatenate([~same, [True]])]]
        votes = dataclasses.replace(votes, label=label)
    votes = _rows(votes, np.sort(firsts))
    counts = votes.counts | {"repeated votes of a user on an observation": again}
    # A species that only overruled votes named is no species any more.
    there = np.bincount(votes.label, minlength=len(votes.labels)) > 0
    label = (np.cumsum(there, dtype=np.int32) - np.int32(1))[votes.label]
    return dataclasses.replace(votes, label=label, labels=votes.labels[there], counts=counts)


def with_authors(votes: Votes, observations: Any, authors: Any) -> Votes:
    """The same votes with the authors of their observations; both columns are ids, an author may be missing or -1.

    Raises:
        ValueError: an observation with several authors.
    """
    row = places(observations, votes.observations)
    known = row >= 0
    refuse_repeats(row, votes.observations, "author")
    author = np.full(len(votes.observations), -1, dtype=np.int32)
    author[row[known]] = places(authors, votes.users)[known]
    counts = votes.counts | {
        "authors of observations without votes": int(np.count_nonzero(~known)),
        "observations whose author is not known or never voted": int(np.count_nonzero(author < 0)),
    }
    return dataclasses.replace(votes, author=author, counts=counts)


def _authors(votes: Votes, authors: Mapping[Any, Any] | ArrayLike) -> Votes:
    """Authors as a mapping, or in the order of the observations."""
    if isinstance(authors, Mapping):
        return with_authors(votes, _ids(authors.keys()), _ids(authors.values()))
    column = np.asarray(authors)
    if len(column) != len(votes.observations):
        raise ValueError(
            f"authors must name one for each of the {len(votes.observations)} distinct observations, in sorted order, "
            f"not {len(column)}"
        )
    return with_authors(votes, votes.observations, column)


def _ids(values: Any) -> NDArray[Any]:
    """Ids of a mapping as an array; text and None as objects."""
    listed = list(values)
    return np.array(listed) if all(isinstance(value, (int, np.integer)) for value in listed) else _objects(listed)


def _objects(listed: list[Any]) -> NDArray[Any]:
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array
