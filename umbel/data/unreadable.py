"""A shard that cannot be read: tried again with growing pauses, then an error that names it."""

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


def retried(read: Callable[[], Result], place: str) -> Result:
    """What `read` returns, tried again after each of PAUSES.

    Raises:
        UnreadableShardError: the last try failed too (OSError).
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
        raise UnreadableShardError(
            f"shard {place} cannot be read ({reason}; tried {len(PAUSES) + 1} times): mend it or fetch it again; "
            "`umbel pretrain` goes on without it by --reader.unreadable-shards skip."
        ) from error
