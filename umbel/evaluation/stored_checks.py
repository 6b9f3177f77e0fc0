"""Whether stored embeddings can stand in a probe: of the photographs that are given, and read as is asked."""

from __future__ import annotations

from collections.abc import Mapping

from umbel.data.index import find_shards, open_shards
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.reading import ReadConfig
from umbel.run import UserError, say


def check_reading(stored: Mapping[str, Embeddings], asked: ReadConfig, *, beside: bool) -> None:
    """Refuse embeddings that were read otherwise than is asked; say where readings are mixed.

    Args:
        stored: by the name that was given.
        beside: whether backbones are read as well.

    Raises:
        UserError: something is asked for, and embeddings are of something else: they cannot be read again.
    """
    default, asked = ReadConfig(), _plain(asked)
    told = {name: _reading(embeddings) for name, embeddings in stored.items()}
    for name, there in told.items():
        if asked != default and there != asked:
            raise UserError(
                f"the embeddings {name} are of {_words(there)}, not of {_words(asked)}: embed again with that, or "
                "leave it out."
            )
    readings = list(told.items()) + ([("the backbones", asked)] if beside else [])
    if len({reading for _, reading in readings}) > 1:
        listed = "; ".join(f"{name} by {_words(reading)}" for name, reading in readings)
        say(f"these features are not read alike, and differences are of the readings too: {listed}.")


def check_photographs(stored: Mapping[str, Embeddings], data: str | None) -> None:
    """Refuse embeddings of other photographs that have the same keys, such as a folder whose files were exchanged.

    Raises:
        UserError: fingerprints differ.
    """
    prints = {name: _fingerprints(embeddings) for name, embeddings in stored.items()}
    if data is not None and find_shards(data):
        prints[data] = {open_shards(data).fingerprint()}
    known = [(name, of) for name, of in prints.items() if of]
    for name, of in known[1:]:
        if not of & known[0][1]:
            raise UserError(
                f"{known[0][0]} and {name} are of other photographs: compare features of the same, and give the --data "
                "that was embedded."
            )


def _reading(embeddings: Embeddings) -> ReadConfig:
    told = embeddings.provenance.get("reading")
    return _plain(ReadConfig(**told)) if isinstance(told, dict) else ReadConfig()


def _plain(reading: ReadConfig) -> ReadConfig:
    """The protocol of the paper fixes the rest."""
    return ReadConfig(protocol="paper") if reading.protocol == "paper" else reading


def _words(reading: ReadConfig) -> str:
    if reading.protocol == "paper":
        return "--protocol paper"
    size = "the backbone's size" if reading.image_size is None else f"--image-size {reading.image_size}"
    return f"--tokens {reading.tokens} at {size}"


def _fingerprints(embeddings: Embeddings) -> set[str]:
    """Of the data as they were given, and of the shards that were embedded: some splits, or made of a folder."""
    told = embeddings.provenance
    given, made = (told.get(part) or {} for part in ("inputs", "data"))
    return {str(value) for value in (given.get("data"), made.get("fingerprint")) if value}
