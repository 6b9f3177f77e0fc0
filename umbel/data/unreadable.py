"""What a disk or network does not give: tried again with growing pauses, then an error that names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from umbel.run import UserError

Result = TypeVar("Result")
PAUSES = (0.5, 2.0, 8.0)
"""Seconds between tries."""


class UnreadableShardError(UserError):
    """A shard that its disk or network does not give."""


def retried(read: Callable[[], Result], what: str, *, skippable: bool = False) -> Result:
    """What `read` returns, tried again after each of PAUSES.

    Args:
        what: is read, for the error.
        skippable: training can go on without it: a shard of a set that is open.

    Raises:
        UserError: the last try failed too (OSError); UnreadableShardError for what is skippable.
    """
    for pause in PAUSES:
        try:
            return read()
        except OSError:
            time.sleep(pause)
    try:
        return read()
    except OSError as error:
        reason = error.strerror or str(error)
        told = f"{what} cannot be read ({reason}; tried {len(PAUSES) + 1} times)"
        if not skippable:
            raise UserError(f"{told}: see that it is there, and run the command again.") from error
        raise UnreadableShardError(
            f"{told}: mend it or fetch it again; "
            "`umbel pretrain` goes on without it by --reader.unreadable-shards skip."
        ) from error
