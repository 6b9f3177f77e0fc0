"""`umbel hash search CODES --key | --photo | --text | --keys-from ...`: the photographs whose codes are nearest."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.finder import Finder
from umbel.evaluation.hashing.queries import (
    Queries,
    codes_backbone,
    codes_embeddings,
    codes_hasher,
    of_keys,
    of_photographs,
    of_texts,
    read_photographs,
)
from umbel.evaluation.hashing.rerank import Answer, Ranking, Rerank
from umbel.run import UserError, say

SHORTLIST = 1000


@dataclass(frozen=True, kw_only=True)
class HashSearchConfig:
    """Find the photographs whose codes are nearest, to one query or to many."""

    codes: Annotated[Path, tyro.conf.Positional]
    """A folder of `umbel hash encode`."""
    key: tuple[str, ...] = ()
    """Keys of photographs among the codes; each is left out of its own answer."""
    photo: tuple[Path, ...] = ()
    """Photographs of your own, embedded by the backbone that the codes' record names."""
    text: tuple[str, ...] = ()
    """What to look for in words, in quotes; for coders that were fitted with --pairs names or captions."""
    keys_from: Path | None = None
    """A file with a key on each line."""
    top: int = 10
    """Photographs to name."""
    rerank: Rerank = "none"
    """Order a shortlist again: asymmetric (the real-valued query against codes), or float (the embeddings' cosine)."""
    shortlist: int | None = None
    """Photographs by Hamming distance that are ordered again; 1000, or --top where that is more."""
    exact: bool = False
    """Compare all codes, also where there is an index."""
    backbone: str | None = None
    """The backbone, where it lies elsewhere by now."""
    coder: Path | None = None
    """The coder's folder, where it lies elsewhere by now."""
    embeddings: Path | None = None
    """The embeddings' folder, where it lies elsewhere by now."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if sum((bool(self.key), bool(self.photo), bool(self.text), self.keys_from is not None)) != 1:
            raise ValueError("give one of --key, --photo, --text and --keys-from")
        if self.text and self.rerank == "float":
            raise ValueError("rerank float compares the embeddings of photographs, which words have none of")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, not {self.top}")
        if self.shortlist is not None and self.rerank == "none":
            raise ValueError(f"shortlist {self.shortlist} is of no use without --rerank")
        if self.shortlist is not None and self.shortlist < self.top:
            raise ValueError(f"shortlist must be at least top ({self.top}), not {self.shortlist}")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One line of an answer."""

    key: str
    distance: float
    """Bits that differ, the L1 distance of an asymmetric search, or 1 - cosine."""
    hamming: int
    """Bits that differ."""
    split: str
    name: str | None
    """Of its class; None without a label."""


def run(config: HashSearchConfig) -> None:
    """Search and print.

    Raises:
        UserError: no such key, a bad photograph, or a coder, backbone or embeddings that are not the codes'.
    """
    # JSON has standard output for itself.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        codes = Codes.load(config.codes)
        queries = _queries(codes, config)
        answers = _ranking(codes, config, queries).answers(queries, config.top)
    found = {name: in_words(codes, answer) for name, answer in zip(queries.names, answers, strict=True)}
    if config.json:
        told = [{"query": name, "found": [vars(row) for row in rows]} for name, rows in found.items()]
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return
    for number, (name, rows) in enumerate(found.items()):
        if len(found) > 1:
            print("\n" * bool(number) + name)
        print(table(rows, finer=config.rerank != "none"))


def _queries(codes: Codes, config: HashSearchConfig) -> Queries:
    if config.photo:
        photographs = read_photographs(config.photo)
        hasher = codes_hasher(codes, config.coder)
        return of_photographs(hasher, codes_backbone(codes, config.backbone, config.coder), photographs)
    if config.text:
        return of_texts(codes_hasher(codes, config.coder), tuple(dict.fromkeys(config.text)))
    keys = config.key if config.keys_from is None else read_keys(config.keys_from)
    return of_keys(codes, tuple(dict.fromkeys(keys)))


def read_keys(file: Path) -> tuple[str, ...]:
    """The lines of a file that are not empty.

    Raises:
        UserError: it cannot be read, or there are none.
    """
    try:
        keys = tuple(line for line in file.read_text(encoding="utf-8").split("\n") if line)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): --keys-from takes one with a key on each line.") from error
    if not keys:
        raise UserError(f"{file} holds no keys: --keys-from takes a file with a key on each line.")
    return keys


def _ranking(codes: Codes, config: HashSearchConfig, queries: Queries) -> Ranking:
    finder = Finder(codes, config.codes, exact=config.exact, queries=len(queries.names))
    if config.rerank == "none":
        return Ranking(finder)
    shortlist = config.shortlist or max(SHORTLIST, config.top)
    by_key = queries.logits is None
    embeddings = codes_embeddings(codes, config.embeddings) if by_key or config.rerank == "float" else None
    hasher = codes_hasher(codes, config.coder) if by_key and config.rerank == "asymmetric" else None
    say(f"order: {config.rerank} distance over the {min(shortlist, len(codes)):,} nearest by Hamming distance.")
    return Ranking(finder, rerank=config.rerank, shortlist=shortlist, hasher=hasher, embeddings=embeddings)


def in_words(codes: Codes, answer: Answer) -> list[Found]:
    """An answer with keys and names."""
    return [
        Found(key=codes.keys[row], distance=distance, hamming=bits, split=codes.splits[split], name=codes.name(row))
        for row, distance, bits, split in zip(
            *(column.tolist() for column in (answer.rows, answer.distance, answer.hamming, codes.split[answer.rows])),
            strict=True,
        )
    ]


def table(rows: list[Found], *, finer: bool) -> str:
    """An answer for people; `finer`: it is ordered by another distance than bits that differ."""
    columns: list[tuple[str, Any]] = [("bits", lambda row: f"{row.hamming:>8}")]
    if finer:
        columns.insert(0, ("distance", lambda row: f"{row.distance:>8.4f}"))
    lines = [f"{'rank':>4}  {'  '.join(f'{name:>8}' for name, _ in columns)}  {'split':<9}  class and key"]
    for rank, row in enumerate(rows, start=1):
        numbers = "  ".join(tell(row) for _, tell in columns)
        lines.append(f"{rank:>4}  {numbers}  {row.split:<9}  {row.name or '-'}  {row.key}")
    return "\n".join(lines)
