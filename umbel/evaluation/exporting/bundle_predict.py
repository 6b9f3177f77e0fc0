"""Name the plants in photographs with a bundle of Umbel's: python predict.py photo.jpg [more] [--json]

Needs numpy, Pillow and onnxruntime alone; a bundle holds this very file as predict.py. Answers are the five likeliest
classes with calibrated confidence, or "unknown".
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import math
import re
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_BYTES = 178_956_970, 2_000_000_000, 1 << 30
PROFILE_TOLERANCE = 4  # of 255 levels: a color profile that moves no color further is sRGB under another name
TOP = 5
CROP_MODES, INTERPOLATIONS = ("center", "squash"), ("bicubic", "bilinear")
MEANS, LINEAR = FORMATS = (1, 2)
"""Of a bundle: its head is of class means, or a linear one that was trained."""
Floats = NDArray[np.float32]


class PhotographError(Exception):
    """A file that is no photograph; the message says why, to be read behind its name."""


class BundleError(Exception):
    """A folder that is no bundle, or a damaged one; the message is a sentence."""


class Predictor:
    """A bundle, ready for photographs."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            BundleError: no bundle, a damaged one, or one of a newer format.
        """
        if not (folder / "bundle.json").is_file():
            raise BundleError(f"{folder} is no bundle (bundle.json): make one with `umbel export RUN --to bundle`.")
        self.folder = folder
        try:
            check_sum(folder, "bundle.json")
            told: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
            if told["format"] not in FORMATS:
                raise BundleError(f"{folder} is a bundle of format {told['format']}; this reads 1 and 2: upgrade it.")
            self.linear = told["format"] == LINEAR
            for name in ("head", "model"):
                check_sum(folder, told[name])
            self.classes = checked_classes(told["classes"])
            self.preprocessing = checked_preprocessing(told["preprocessing"])
            self.temperature, self.threshold = float(told["temperature"]), float(told["threshold"])
            if not (0 < self.temperature < math.inf and math.isfinite(self.threshold)):
                raise ValueError(f"temperature {self.temperature}, threshold {self.threshold}")
            with np.load(folder / told["head"], allow_pickle=False) as head:
                if self.linear == ("mean" in head.files):
                    raise ValueError("its head is of another kind than its format")
                self.weight, self.bias = (head[name].astype(np.float32) for name in ("weight", "bias"))
                # A linear head reads features as they are.
                self.mean = np.zeros(self.weight.shape[-1], np.float32) if self.linear else head["mean"].astype("<f4")
            self.session = open_model(folder / told["model"])
            check_fit(self)
        except BundleError:
            raise
        except Exception as error:
            # A damaged file fails in JSON, numpy's zip reader or onnxruntime, each in its own way.
            raise damaged(folder, error) from error

    def predict(self, photograph: Path) -> dict[str, Any]:
        """The answer for one photograph: see `answer`.

        Raises:
            PhotographError: it is none.
            BundleError: the model fails.
        """
        image = prepare(read_photograph(photograph), self.preprocessing)
        try:
            found = features(self.session, image[None])
            if found.shape != (1, len(self.mean)) or not np.isfinite(found).all():
                raise ValueError(f"its model gives no {len(self.mean)} finite numbers")
        except MemoryError:
            raise
        except Exception as error:
            # onnxruntime has exceptions of its own for what does not fit together inside a model.
            raise damaged(self.folder, error) from error
        return {"photograph": str(photograph), **self.answer(found)}

    def answer(self, feature: Floats) -> dict[str, Any]:  # (1, C)
        """The answer for one feature: class or "unknown", and the likeliest classes with confidence.

        What the threshold is held against is the similarity to the nearest class; of a linear head the confidence.
        """
        logits, similarity = self.scores(feature)
        confidence = softmax(logits / self.temperature)[0]
        order = np.argsort(-confidence, kind="stable")[:TOP]
        known = bool(similarity[0] >= self.threshold)
        return {
            "answer": self.classes[order[0]] if known else "unknown",
            "confidence" if self.linear else "similarity": round(float(similarity[0]), 4),
            "threshold": round(self.threshold, 4),
            "top": [{"class": self.classes[n], "confidence": round(float(confidence[n]), 4)} for n in order],
        }

    def scores(self, feature: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `scores_of`; of a linear head the logits, and the confidence of the likeliest class."""
        if self.linear:
            return linear_scores(feature, weight=self.weight, bias=self.bias, temperature=self.temperature)
        return scores_of(feature, mean=self.mean, weight=self.weight, bias=self.bias)


def damaged(folder: Path, error: Exception) -> BundleError:
    """A sentence of what is wrong with a bundle."""
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return BundleError(f"the bundle {folder} is damaged ({type(error).__name__}: {reason}).")


def check_sum(folder: Path, name: str) -> None:
    """Hold a file against the bundle's SHA256SUMS; a bundle without sums is taken as it is.

    Raises:
        BundleError: it is another file than was made.
    """
    if not (folder / "SHA256SUMS").is_file():
        return
    lines = [line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    sums = {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}
    if sums.get(name) != hashlib.sha256((folder / name).read_bytes()).hexdigest():
        raise BundleError(f"the bundle {folder} is damaged: {name} is not the file whose sum stands in SHA256SUMS.")


def checked_classes(names: Any) -> list[str]:
    """The classes, two or more.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError("classes are no list of two or more names")
    return names


def checked_preprocessing(settings: Any) -> dict[str, Any]:
    """How photographs are prepared, see `prepare`.

    Raises:
        ValueError: a setting that there is not.
    """
    for name in ("size", "resize"):
        if type(settings[name]) is not int or settings[name] < 1:
            raise ValueError(f"{name} {settings[name]} is no number of pixels")
    if settings["crop_mode"] not in CROP_MODES or settings["interpolation"] not in INTERPOLATIONS:
        raise ValueError(f"crop_mode {settings['crop_mode']}, interpolation {settings['interpolation']}")
    mean, std = (np.array(settings[name], dtype=np.float32) for name in ("mean", "std"))
    if not (mean.shape == std.shape == (3,) and np.isfinite(mean).all() and np.isfinite(std).all() and std.min() > 0):
        raise ValueError(f"mean {settings['mean']}, std {settings['std']}")
    return dict(settings)


def check_fit(bundle: Predictor) -> None:
    """Hold a bundle's parts against one another.

    Raises:
        BundleError: they are not of one bundle.
    """
    (given,) = bundle.session.get_inputs()
    shapes = {output.name: output.shape for output in bundle.session.get_outputs()}
    size, width = bundle.preprocessing["size"], shapes["features"][-1]
    if not isinstance(width, int):  # a graph need not tell; then the first photograph does
        width = len(bundle.mean)
    if [side for side in given.shape[1:] if isinstance(side, int)] != [3, size, size]:
        raise BundleError(
            f"the bundle {bundle.folder} is damaged: it prepares images of {size} x {size} pixels, and its model "
            f"takes {given.shape[1:]}."
        )
    classes = len(bundle.classes)
    if (bundle.mean.shape, bundle.weight.shape, bundle.bias.shape) != ((width,), (classes, width), (classes,)):
        raise BundleError(
            f"the bundle {bundle.folder} is damaged: its {classes} classes, features of {width} numbers and head do "
            "not fit together."
        )
    if not all(np.isfinite(part).all() for part in (bundle.mean, bundle.weight, bundle.bias)):
        raise BundleError(f"the bundle {bundle.folder} is damaged: its head has numbers that are not finite.")


def scores_of(
    feature: Floats, *, mean: Floats, weight: Floats, bias: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, C) features -> (B, K) logits before the temperature, and (B,) the greatest cosine to a class.

    Features of length 1, less their mean over the classes' photographs, and of length 1 again.
    """
    centered = unit(unit(feature.astype(np.float64)) - mean)
    return centered @ weight.T.astype(np.float64) + bias, (centered @ unit(weight.astype(np.float64)).T).max(1)


def linear_scores(
    feature: Floats, *, weight: Floats, bias: Floats, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, C) features -> (B, K) logits before the temperature, and (B,) the confidence of the likeliest class."""
    logits = feature.astype(np.float64) @ weight.T.astype(np.float64) + bias
    return logits, softmax(logits / temperature).max(1)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1."""
    scaled: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, K) probabilities."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def open_model(file: Path) -> Any:
    """A session of onnxruntime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])


def features(session: Any, images: Floats) -> Floats:  # (B, 3, H, W)
    """(B, C)."""
    made: Floats = session.run(["features"], {"images": images})[0]
    return made


def prepare(image: Image.Image, settings: dict[str, Any]) -> Floats:
    """An RGB photograph as the network wants it, (3, S, S): resized, the middle cut out, normalized."""
    size, side = int(settings["size"]), int(settings["resize"])
    width, height = image.size
    target = (side, side)
    if settings["crop_mode"] == "center":
        # The shorter side becomes `side`; the longer one is cut down to a whole number.
        target = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    if target != image.size:
        image = image.resize(target, Image.Resampling[str(settings["interpolation"]).upper()])
    left, top = (round((length - size) / 2) for length in target)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / np.float32(255)
    mean, std = (np.array(settings[name], dtype=np.float32) for name in ("mean", "std"))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def read_photograph(path: Path) -> Image.Image:
    """Decode a file into an upright RGB image in sRGB.

    Raises:
        PhotographError: not there, not an image, damaged, or too large.
    """
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode):
            raise PhotographError("it is no file")  # a pipe would be waited for
        if told.st_size > MAX_BYTES:
            raise PhotographError(f"its file is larger than {MAX_BYTES >> 30} GiB")
        content = path.read_bytes()
    except OSError as error:
        raise PhotographError(f"it cannot be read ({error.strerror})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes from half Pillow's bound on
            with Image.open(io.BytesIO(content)) as image:
                pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    raise PhotographError(f"it has more than {MAX_PIXELS:,} pixels ({image.width} x {image.height})")
                # A small progressive JPEG may ask for thousands of passes over its pixels.
                if image.format in ("JPEG", "MPO") and content.count(b"\xff\xda") * pixels > MAX_SCANNED_PIXELS:
                    raise PhotographError("it has too many scans")
                return to_rgb(ImageOps.exif_transpose(image), image.info.get("icc_profile"))
    except UnidentifiedImageError as error:
        raise PhotographError("it is not an image") from error
    except Image.DecompressionBombError as error:
        raise PhotographError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except (MemoryError, PhotographError):
        raise
    except Exception as error:
        # A damaged file fails in its decoder or its EXIF reader, each with exceptions of its own.
        raise PhotographError(f"it is damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Gray, 16-bit, palette, CMYK and transparent images as RGB (transparent becomes white), in sRGB."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        if not np.isfinite(levels).all():
            raise PhotographError("it has pixels that are not finite numbers")
        if image.mode == "F" and levels.max(initial=0) <= 1:
            levels = levels * 255  # shares of white, as scientific software stores them
        if levels.max(initial=0) > 255:
            levels = (levels - levels.min()) * (255 / max(np.ptp(levels), 1))
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode == "CMYK":
        image = to_srgb(image, profile)
    return to_srgb(image.convert("RGB"), profile)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB or CMYK image in sRGB; unchanged where its profile is sRGB, missing, damaged or of another mode."""
    transform = color_transform(profile, image.mode) if profile and image.mode in ("RGB", "CMYK") else None
    converted = None if transform is None else ImageCms.applyTransform(image, transform)
    return image if converted is None else converted


@functools.lru_cache(maxsize=16)
def color_transform(profile: bytes, mode: str) -> Any:
    """The way from a profile to sRGB; None where there is nothing to convert, or no way."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode != "RGB":
        return found
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    moved = ImageCms.applyTransform(Image.fromarray(grid), found)
    farthest = 255 if moved is None else int(np.abs(np.asarray(moved).astype(int) - grid).max())
    return found if farthest > PROFILE_TOLERANCE else None


def answers(bundle: Path, photographs: Sequence[Path], *, as_json: bool) -> Iterator[tuple[str, str | None]]:
    """What to print for each photograph, and what is wrong with it, or None; with `as_json` one text for all at last.

    Raises:
        BundleError: see `Predictor`.
    """
    predictor = Predictor(bundle)
    found = []
    for photograph in photographs:
        try:
            told = predictor.predict(photograph)
        except PhotographError as error:
            found.append({"photograph": str(photograph), "error": str(error)})
            yield "", f"{photograph}: {error}"
            continue
        found.append(told)
        if not as_json:
            yield in_words(told), None
    if as_json:
        yield in_json(found), None


def in_json(found: list[dict[str, Any]]) -> str:
    """Answers as JSON; the bytes of a name that are no text stay what Python reads them as, written \\udcXX."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def in_words(told: dict[str, Any]) -> str:
    """An answer as one line."""
    top = ", ".join(f"{row['class']} {100 * row['confidence']:.0f} %" for row in told["top"])
    if told["answer"] == "unknown":
        name = "confidence" if "confidence" in told else "similarity"
        return f"{told['photograph']}: unknown ({name} {told[name]:.2f}; nearest: {top})"
    return f"{told['photograph']}: {top}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of a bundle; exit code 2 where a photograph or the bundle cannot be read."""
    parser = argparse.ArgumentParser(description="Name the plants in photographs.")
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show
    wrong = 0
    try:
        for text, fault in answers(Path(__file__).resolve().parent, asked.photographs, as_json=asked.json):
            if text:
                print(text, flush=True)
            if fault is not None:
                print(f"predict.py: {fault}.", file=sys.stderr)
                wrong = 2
    except BundleError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    return wrong


if __name__ == "__main__":
    sys.exit(main())
