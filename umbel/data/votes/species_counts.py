"""n_author and n_vote: how many distinct species a user got right, on own and on others' observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.cells import pairs
from umbel.data.votes.encoded import Votes


class SpeciesCounts:
    """Counts distinct species by user; the distinct (user, species) pairs are found once."""

    def __init__(self, votes: Votes) -> None:
        self.of_vote, keys = pairs(votes.user, votes.label, len(votes.labels))
        self.user = (keys // len(votes.labels)).astype(np.int32)
        self.users = votes.voters
        self.own = votes.own
        self.observation = votes.observation

    def __call__(
        self, right: NDArray[np.bool_], valid: NDArray[np.bool_], *, own_as_votes: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count.

        Args:
            right: (V,) votes that agree with their observation's label.
            valid: (N,) observations that are valid.
            own_as_votes: count a species got right only on own observations that are not valid among n_vote.

        Returns:
            n_author, (U,): species right on valid observations of the user's own; n_vote, (U,): species right on
            others' observations, valid or not, less those of n_author.
        """
        as_author = self._named(right & self.own & valid[self.observation])
        as_voter = self._named(right if own_as_votes else right & ~self.own)
        as_voter &= ~as_author
        return self._by_user(as_author), self._by_user(as_voter)

    def _named(self, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The pairs that some of the votes name."""
        named = np.zeros(len(self.user), dtype=bool)
        named[self.of_vote[which]] = True
        return named

    def _by_user(self, which: NDArray[np.bool_]) -> NDArray[Any]:
        return np.bincount(self.user[which], minlength=self.users)
