"""What stands in the folder of `umbel embed` already: these embeddings, parts of them, others, or other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umbel.config import first_difference
from umbel.evaluation.parts import Parts, other_parts
from umbel.run import UserError, move_aside, read_json, say

FILES = ("embeddings.safetensors", "keys.txt", "embeddings.json")
"""The last one is the record: without it there are no embeddings."""
PARTS, BESIDE = ".parts", ".embeddings"


def already_there(out: Path, inputs: Mapping[str, Any], asked: Mapping[str, Any], *, force: bool) -> bool:
    """Whether `out` holds these embeddings; what stands in the way is moved aside, if that is asked for.

    Args:
        inputs: what finished embeddings must be made of.
        asked: that, and on what else parts of them depend.

    Raises:
        UserError: it holds something else.
    """
    difference = _difference(out, inputs, asked)
    if difference == "":
        say(f"{out} already holds these embeddings.")
        Parts(out / PARTS, count=0, size=1).remove()
        return True
    if difference and not force:
        raise UserError(f"{out} {difference}: choose another --out, or --force to move it aside.")
    if difference:
        say(f"moved aside: {move_aside(out)}")
    return False


def _difference(out: Path, inputs: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Why `out` cannot take embeddings of these inputs; "" if it holds them, None if it is free or was interrupted."""
    if not out.exists():
        return None
    if not out.is_dir():
        return "is a file"
    if (out / FILES[2]).is_file():
        there = read_json(out / FILES[2], "the embeddings' record")["provenance"].get("inputs", {})
        found = first_difference(there, dict(inputs), ())
        return f"holds other embeddings ({found})" if found else ""
    ours = {*FILES, "shards", PARTS, BESIDE}
    strangers = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if strangers:
        return f"holds other files ({strangers[0]})"
    found = other_parts(out / PARTS, asked)
    return f"holds a part of other embeddings ({found})" if found else None
