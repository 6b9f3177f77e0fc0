"""Pictures that commands write: marked as Umbel's, so that one replaces an older one and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from umbel.run import UserError, write_atomic


def check_picture(out: Path, command: str) -> None:
    """Say at once what `save_picture` would refuse.

    Raises:
        UserError: not a .png, or a file that this command did not write.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png, not {out}.")
    if out.exists() and not _is_from(out, command):
        raise UserError(f"{out} is there and is no sheet of Umbel's: choose another --out.")


def save_picture(picture: Image.Image, out: Path, command: str) -> None:
    """Write a PNG that tells which command made it, whole or not at all.

    Raises:
        UserError: see `check_picture`.
    """
    check_picture(out, command)
    out.parent.mkdir(parents=True, exist_ok=True)
    marked = PngInfo()
    marked.add_text("Software", command)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=marked)
    write_atomic(out, buffer.getvalue())


def _is_from(path: Path, command: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == command
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
