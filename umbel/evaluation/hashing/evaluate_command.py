"""`umbel hash evaluate CODES|EMBEDDINGS ...`: a table of retrieval by codes, by ITQ and by the float features."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.evaluate import (
    Convention,
    Score,
    Task,
    score_codes,
    score_features,
    score_hasher,
)
from umbel.evaluation.hashing.evaluate_inputs import choose_task, coder_between, read_inputs
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.stored import BASELINES, Hasher
from umbel.evaluation.hashing.text_retrieval import ZeroShot, score_texts
from umbel.evaluation.measures import Denominator
from umbel.run import UserError, say, write_atomic

Baseline = Literal["itq", "pca", "pca-rotation", "lsh"]


@dataclass(frozen=True, kw_only=True)
class HashEvaluateConfig:
    """Measure retrieval: queries are the test split, the database is train and val."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of `umbel hash encode`, and one of `umbel embed` for the float features, ITQ and asymmetric search."""
    k: int = 1000
    """Ranks that count; the whole database where it is smaller."""
    denominator: Denominator = "found"
    """AP is divided by the relevant photographs found in the top k, by min(k, R) (min), or by R (all)."""
    bits: int = 32
    """Bits of the baselines, where no codes are given."""
    baselines: tuple[Baseline, ...] = ("itq",)
    """Fitted on the database and shown beside, where embeddings are given."""
    seed: int = 0
    """Seed of the baselines."""
    out: Path | None = None
    """File for the table as JSON; an older one is replaced."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.bits < 1 or self.seed < 0:
            raise ValueError(f"k and bits must be at least 1 and seed 0, not {self.k}, {self.bits} and {self.seed}")
        if not self.inputs:
            raise ValueError("inputs: give at least one folder of codes or embeddings")


def run(config: HashEvaluateConfig) -> None:
    """Measure and print.

    Raises:
        UserError: nothing to measure, or folders of different photographs.
    """
    if config.out is not None:
        refuse_stranger(config.out)
    # JSON has standard output for itself.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        convention, task, scores, zero_shot = _measure(config)
    told = describe(convention, task, scores)
    if zero_shot:
        told["zero_shot"] = [dataclasses.asdict(shares) for shares in zero_shot]
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(config.out, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(told, indent=1, ensure_ascii=False) if config.json else table(told["convention"], scores))
    for shares in zero_shot if not config.json else ():
        towers = "" if shares.by_towers is None else f", to {100 * shares.by_towers:.1f} % by the towers alone"
        say(
            f"{shares.name}: the words of its species are nearest to {100 * shares.by_codes:.1f} % of the queries by "
            f"codes, to {100 * shares.by_logits:.1f} % by logits{towers}, of {shares.species} species."
        )


def refuse_stranger(out: Path) -> None:
    """Refuse to replace what this command did not write.

    Raises:
        UserError: the file holds something else, or is a folder.
    """
    if not out.exists():
        return
    told: Any = None
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(out.read_text())
    if not (isinstance(told, dict) and {"format", "convention", "scores"} <= set(told)):
        raise UserError(f"{out} is no result of `umbel hash evaluate`: choose another --out.")


def _measure(config: HashEvaluateConfig) -> tuple[Convention, Task, list[Score], list[ZeroShot]]:
    embeddings, codes = read_inputs(config.inputs)
    task = choose_task(next(iter(codes.values())) if embeddings is None else embeddings)
    convention = Convention(k=min(config.k, len(task.database)), denominator=config.denominator)
    scores, coders = list[Score](), dict[str, Hasher]()
    if embeddings is not None:
        scores += score_features(embeddings.features, task, convention)
        found = {name: coder_between(one, embeddings, name) for name, one in codes.items()}
        coders = {name: coder for name, coder in found.items() if coder is not None}
    for name, one in codes.items():
        logits = None
        if embeddings is not None and name in coders:
            logits = coders[name].logits(embeddings.features[task.queries])
        scores += score_codes(name, one.packed, one.bits, task, convention, logits=logits)
    if embeddings is None:
        return convention, task, scores, []
    for bits in dict.fromkeys(one.bits for one in codes.values()) or [config.bits]:
        scores += _baselines(config, embeddings, bits, task, convention)
    zero_shot: list[ZeroShot] = []
    for name, coder in coders.items() if embeddings.classes else ():
        if not isinstance(coder, PairedCoder) or coder.reads != "text":
            continue
        try:
            by_words, shares = score_texts(name, coder, embeddings.features, embeddings.classes, task, convention)
        except UserError as error:  # the tower that reads its texts
            say(f"{name}: not measured by words: {error}")
            continue
        scores += by_words
        zero_shot.append(shares)
    return convention, task, scores, zero_shot


def _baselines(
    config: HashEvaluateConfig, embeddings: Embeddings, bits: int, task: Task, convention: Convention
) -> list[Score]:
    scores: list[Score] = []
    for method in config.baselines:
        try:
            hasher = BASELINES[method](bits, seed=config.seed).fit(embeddings.features[task.database])
        except UserError as error:  # more bits than it can make
            say(f"left out: {error}")
            continue
        scores += score_hasher(f"{method} beside", hasher, embeddings.features, task, convention)
    return scores


def describe(convention: Convention, task: Task, scores: list[Score]) -> dict[str, Any]:
    """The table as plain data."""
    text = f"{convention}; {len(task.queries):,} queries (test), {len(task.database):,} photographs in the database"
    return {
        "format": 1,
        "convention": text,
        "k": convention.k,
        "denominator": convention.denominator,
        "queries": len(task.queries),
        "database": len(task.database),
        "scores": [dataclasses.asdict(score) for score in scores],
    }


def table(title: str, scores: list[Score]) -> str:
    """The table for people."""
    width = max(len(score.name) for score in scores)
    lines = [title, f"{'':<{width}}  bits  {'distance':<10}  mAP %  imbalance  correlation  constant bits"]
    for score in scores:
        health = score.health
        told = f"{health.imbalance:9.3f}  {health.correlation:11.3f}  {health.constant:13d}" if health else ""
        line = f"{score.name:<{width}}  {score.bits or '-':>4}  {score.distance:<10}  {100 * score.map:5.1f}  {told}"
        lines.append(line.rstrip())
    return "\n".join(lines)
