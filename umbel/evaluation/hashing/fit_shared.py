"""What all ways to fit a hashing method share: whether it was done before, what may be fitted on, and storing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from umbel.backbones.text_tower import TextTower, load_text_tower
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.evaluate import QUERY_SPLITS
from umbel.evaluation.hashing.fit_config import LETTERS, HashFitConfig
from umbel.evaluation.hashing.stored import already_made, save_hasher, versions
from umbel.run import UserError, say

FROM_EMBEDDINGS = ("backbone", "preprocessing", "reading", "data")
"""What a coder tells of the embeddings that it was fitted on, or whose photographs it saw."""


def basics(config: HashFitConfig) -> dict[str, Any]:
    """What every method is asked for; with it and the inputs' hashes a folder is known again."""
    return {"method": config.method, "bits": config.bits, "seed": config.seed}


def there(config: HashFitConfig, asked: dict[str, Any]) -> bool:
    """Whether --out holds what is asked for, which is said; see `already_made`."""
    if already_made(config.out, "coder.json", asked, force=config.force):
        say(f"{config.out} already holds this coder.")
        return True
    return False


def store(
    config: HashFitConfig,
    hasher: Any,
    asked: dict[str, Any],
    told: dict[str, Any],
    count: int,
    started: float,
    more: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write the coder's folder, and say so; `more` as `save_hasher` has it."""
    seconds = round(time.monotonic() - started, 3)
    provenance = {"asked": asked, "photographs": count, "seconds": seconds, "versions": versions()} | told
    save_hasher(config.out, hasher, provenance, more)
    say(f"{config.out}: {hasher.method}, {config.bits} bits, fitted on {count:,} photographs in {seconds:.1f} s.")


def told_folder(embeddings: Embeddings) -> str | None:
    """Where the embedded photographs' shards lay."""
    told = embeddings.provenance.get("data")
    return told.get("folder") if isinstance(told, dict) else None


def fitting_splits(splits: tuple[str, ...]) -> list[str]:
    """All splits but the queries'.

    Raises:
        UserError: there are only queries.
    """
    chosen = [name for name in dict.fromkeys(splits) if name not in QUERY_SPLITS]
    if not chosen:
        raise UserError("there is only a test split, whose photographs are the queries: nothing may be fitted on it.")
    return chosen


def tower_of(config: HashFitConfig) -> TextTower | None:
    """What reads the texts; None: they are read as letters.

    Raises:
        UserError: see `load_text_tower`.
    """
    return None if config.texts == LETTERS else load_text_tower(config.texts)
