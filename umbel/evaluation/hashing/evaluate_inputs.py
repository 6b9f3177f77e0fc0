"""What `umbel hash evaluate` measures: codes and embeddings of the same photographs, and the coder between both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.evaluate import DATABASE_SPLITS, QUERY_SPLITS, Task, make_task
from umbel.evaluation.hashing.queries import codes_hasher
from umbel.evaluation.hashing.stored import Hasher, backbone_sha256
from umbel.run import UserError, say


def read_inputs(folders: tuple[Path, ...]) -> tuple[Embeddings | None, dict[str, Codes]]:
    """At most one set of embeddings, and codes by the names of their folders, all of the same photographs.

    Raises:
        UserError: neither, more embeddings than one, or different photographs.
    """
    embeddings: Embeddings | None = None
    codes: dict[str, Codes] = {}
    for folder in folders:
        if (folder / "embeddings.json").is_file():
            if embeddings is not None:
                raise UserError(f"{folder} is a second folder of embeddings: give one.")
            embeddings = Embeddings.load(folder)
        elif (folder / "codes.json").is_file():
            codes[str(folder)] = Codes.load(folder)
        else:
            raise UserError(f"{folder} holds neither codes (`umbel hash encode`) nor embeddings (`umbel embed`).")
    first: Embeddings | Codes = next(iter(codes.values())) if embeddings is None else embeddings
    for name, one in codes.items():
        if one.keys != first.keys or not np.array_equal(one.label, first.label):
            raise UserError(f"{name} holds other photographs or labels than its neighbors: they cannot be compared.")
    return embeddings, codes


def choose_task(photographs: Embeddings | Codes) -> Task:
    """Queries and database.

    Raises:
        UserError: no labeled queries, or no labeled database.
    """
    task = make_task(photographs.label, photographs.split, photographs.splits)
    for rows, what, splits in ((task.queries, "query", QUERY_SPLITS), (task.database, "database", DATABASE_SPLITS)):
        if not len(rows):
            there = ", ".join(photographs.splits)
            raise UserError(
                f"no labeled photograph can be a {what} (split {' or '.join(splits)}); the splits here are: {there}."
            )
    return task


def coder_between(codes: Codes, embeddings: Embeddings, name: str) -> Hasher | None:
    """The coder of the codes, where it takes these embeddings; None, told why, where it does not or is not there.

    Width alone does not tell: an adapted backbone's features are as wide as those of the plain one.
    """
    try:
        hasher = codes_hasher(codes, None)
    except UserError as error:
        say(f"{name}: no asymmetric search: {error}")
        return None
    if hasher.width != embeddings.features.shape[1]:
        say(f"{name}: no asymmetric search: its coder takes features of width {hasher.width}.")
        return None
    hashes = {backbone_sha256(one.provenance) for one in (codes, embeddings)} - {None}
    read = {one.provenance.get("preprocessing") for one in (codes, embeddings)} - {None}
    if len(hashes) > 1 or len(read) > 1:
        how = "by another backbone" if len(hashes) > 1 else "otherwise"
        say(f"{name}: no asymmetric search, and nothing by words: the embeddings beside it were made {how}.")
        return None
    return hasher
