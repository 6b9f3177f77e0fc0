"""A bundle's predict.py: reads and prepares as Umbel does, needs three packages, and answers or says what is wrong."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image, ImageCms

from umbel.data.photograph import BadPhotographError
from umbel.data.photograph import read_photograph as umbels
from umbel.evaluation.exporting import bundle_predict
from umbel.evaluation.exporting.bundle_predict import PhotographError, prepare, read_photograph
from umbel.evaluation.exporting.sample_images import dead_leaves

Colors = Callable[[str, int], Image.Image]
CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
BLOCKING = """
import sys
allowed = {{"numpy", "PIL", "onnxruntime", *sys.stdlib_module_names}}
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "umbel", "scipy", "onnx", "sklearn", "safetensors"):
            raise ImportError(f"{{name}} is not in a bundle's environment")
sys.meta_path.insert(0, Refusing())
sys.argv = {argv!r}
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""


def picture() -> Image.Image:
    return dead_leaves(1, width=61, height=47, seed=4)[0]


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def profile(*, other: bool = False) -> bytes:
    """sRGB's profile; or one whose red is sRGB's blue."""
    found = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return found.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ") if other else found


PHOTOGRAPHS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(picture(), "JPEG", quality=90),
    "turned by EXIF": rotated,
    "CMYK": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "gray": lambda: encoded(picture().convert("L"), "PNG"),
    "gray with transparency": lambda: encoded(picture().convert("LA"), "PNG"),
    "palette": lambda: encoded(picture().convert("P"), "GIF"),
    "16 bits": lambda: encoded(Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 200), "PNG"),
    "float of 0 to 1": lambda: encoded(Image.fromarray(np.asarray(picture().convert("L")) / np.float32(255)), "TIFF"),
    "float of 0 to 255": lambda: encoded(picture().convert("F"), "TIFF"),
    "transparent": lambda: encoded(picture().convert("RGBA").rotate(20), "PNG"),
    "a damaged profile": lambda: encoded(picture(), "JPEG", icc_profile=b"no profile"),
    "sRGB's profile": lambda: encoded(picture(), "JPEG", icc_profile=profile()),
    "another profile": lambda: encoded(picture(), "JPEG", icc_profile=profile(other=True)),
}


@pytest.mark.parametrize("make", PHOTOGRAPHS.values(), ids=PHOTOGRAPHS)
def test_photographs_are_read_as_umbel_reads_them(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(make())
    found, expected = read_photograph(path), umbels(path)
    assert (found.mode, found.size) == ("RGB", expected.size)
    assert found.tobytes() == expected.tobytes()


def test_floats_are_read_as_what_they_show(tmp_path: Path) -> None:
    for name in ("gray", "float of 0 to 1", "float of 0 to 255"):
        (tmp_path / name).write_bytes(PHOTOGRAPHS[name]())
    gray, shares, levels = (
        np.asarray(read_photograph(tmp_path / name), dtype=int)
        for name in ("gray", "float of 0 to 1", "float of 0 to 255")
    )
    assert np.ptp(gray) > 100
    assert np.abs(shares - gray).max() <= 1
    assert np.abs(levels - gray).max() <= 1


def test_a_profile_changes_the_colors(tmp_path: Path) -> None:
    for name in ("JPEG", "another profile"):
        (tmp_path / name).write_bytes(PHOTOGRAPHS[name]())
    plain, moved = (np.asarray(read_photograph(tmp_path / name), dtype=float) for name in ("JPEG", "another profile"))
    assert np.abs(plain - moved).mean() > 10


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(rotated())
    assert read_photograph(tmp_path / "photo.jpg").size == (47, 61)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "size", [(100, 75), (75, 101), (32, 37), (37, 37), (20, 300), (36, 37), (36, 39), (39, 36)], ids=str
)
def test_images_are_prepared_as_timm_prepares_them(size: tuple[int, int], interpolation: str, crop_mode: str) -> None:
    image = dead_leaves(1, width=size[0], height=size[1])[0]
    statistics: dict[str, Any] = {"mean": (0.4, 0.45, 0.35), "std": (0.2, 0.25, 0.3)}
    transform = timm.data.create_transform(
        (3, 32, 32), crop_pct=0.875, crop_mode=crop_mode, interpolation=interpolation, **statistics
    )
    settings = {"size": 32, "resize": 36, "crop_mode": crop_mode, "interpolation": interpolation, **statistics}
    found = prepare(image, settings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, transform(image).numpy(), rtol=0, atol=1e-6)


BAD = {
    "a text": (b"not a photograph", "it is not an image"),
    "a truncated JPEG": (PHOTOGRAPHS["JPEG"]()[:900], "damaged"),
    "not a number": (encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), "not finite numbers"),
    "nothing": (b"", "it is not an image"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_what_is_no_photograph_is_refused_by_both(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotographError, match=words):
        read_photograph(path)
    with pytest.raises(BadPhotographError):
        umbels(path)


def test_no_file_a_folder_and_a_bomb_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotographError, match="cannot be read"):
        read_photograph(tmp_path / "nowhere.jpg")
    with pytest.raises(PhotographError, match="no file"):
        read_photograph(tmp_path)
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(PhotographError, match="pixels"):
        read_photograph(tmp_path / "bomb.png")
    scans = encoded(picture().resize((3000, 2000)), "JPEG")
    (tmp_path / "scans.jpg").write_bytes(scans[:-2] + 400 * b"\xff\xda" + scans[-2:])
    with pytest.raises(PhotographError, match="scans"):
        read_photograph(tmp_path / "scans.jpg")


# --- Answers


def save(image: Image.Image, path: Path) -> Path:
    image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)
    return path


def test_the_plants_are_named(vit_exports: Path, colors: Colors, tmp_path: Path, umbel: Callable[..., Any]) -> None:
    photographs = [save(colors(name, 77), tmp_path / f"{name}.png") for name in ("anemone", "borago", "daphne")]
    code, out, _ = umbel("predict", vit_exports / "bundle", *photographs)
    assert code == 0
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in photographs]
    for line, name in zip(lines, ("anemone", "borago", "daphne"), strict=True):
        assert line.split(": ")[1].startswith(f"{name} "), line
        assert line.count("%") == 4  # classes there are


def test_something_else_is_unknown(vit_exports: Path, tmp_path: Path, umbel: Callable[..., Any]) -> None:
    checks = (np.indices((40, 40)).sum(0) % 2 * 255).astype(np.uint8)
    path = save(Image.fromarray(np.stack([checks, 255 - checks, checks], axis=2)), tmp_path / "strange.png")
    code, out, _ = umbel("predict", vit_exports / "bundle", path, "--json")
    assert code == 0
    (told,) = json.loads(out)
    assert told["answer"] == "unknown"
    assert told["similarity"] < told["threshold"]
    assert "unknown (similarity" in umbel("predict", vit_exports / "bundle", path).out


def test_json_tells_confidence_that_adds_up(
    int8_exports: dict[str, Path], colors: Colors, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    path = save(colors("crocus", 5), tmp_path / "crocus.png")
    told = json.loads(umbel("predict", int8_exports["convnext"] / "bundle", path, "--json").out)
    (row,) = told
    assert row["answer"] == row["top"][0]["class"] == "crocus"
    confidence = [one["confidence"] for one in row["top"]]
    assert confidence == sorted(confidence, reverse=True)
    assert abs(sum(confidence) - 1) < 1e-3


def test_the_answer_is_the_torch_models(vit: Path, vit_exports: Path, colors: Colors, tmp_path: Path) -> None:
    from umbel.backbones import load

    path = save(colors("daphne", 8), tmp_path / "daphne.png")
    predictor = bundle_predict.Predictor(vit_exports / "bundle")
    backbone = load(vit)
    with torch.inference_mode(), Image.open(path) as image:
        feature = backbone.model(backbone.transform(image)[None])[0].double()
    with np.load(vit_exports / "bundle" / "head.npz") as head:
        mean, weight, bias = (torch.from_numpy(head[name]).double() for name in ("mean", "weight", "bias"))
    centered = feature / feature.norm() - mean
    centered = centered / centered.norm()
    confidence = ((weight @ centered + bias) / predictor.temperature).softmax(0)
    told = predictor.predict(path)
    by_class = {row["class"]: row["confidence"] for row in told["top"]}
    for name, expected in zip(predictor.classes, confidence.tolist(), strict=True):
        assert by_class[name] == pytest.approx(expected, abs=2e-4)
    similarity = max(float(centered @ row / row.norm()) for row in weight)
    assert told["similarity"] == pytest.approx(similarity, abs=1e-4)


def test_the_others_are_answered_where_one_is_bad(
    vit_exports: Path, colors: Colors, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    good = save(colors("borago", 3), tmp_path / "good.jpg")
    (tmp_path / "notes.jpg").write_text("hello")
    code, out, err = umbel("predict", vit_exports / "bundle", tmp_path / "notes.jpg", good)
    assert code == 2
    assert out.startswith(f"{good}: borago")
    assert err == f"umbel: {tmp_path / 'notes.jpg'}: it is not an image.\n"
    code, out, _ = umbel("predict", vit_exports / "bundle", tmp_path / "notes.jpg", good, "--json")
    assert code == 2
    assert [set(row) >= {"error"} for row in json.loads(out)] == [True, False]


def test_50_megapixels_a_turned_and_a_cmyk_photograph_get_the_right_answer(
    vit_exports: Path, colors: Colors, tmp_path: Path
) -> None:
    predictor = bundle_predict.Predictor(vit_exports / "bundle")
    large = save(colors("anemone", 4).resize((8200, 6150)), tmp_path / "large.jpg")
    assert predictor.predict(large)["top"][0]["class"] == "anemone"
    exif = Image.Exif()
    exif[0x0112] = 8
    colors("borago", 4).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert predictor.predict(tmp_path / "turned.jpg")["top"][0]["class"] == "borago"
    colors("daphne", 4).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert predictor.predict(tmp_path / "print.jpg")["top"][0]["class"] == "daphne"


# --- Damaged bundles


def head_of(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """The head's file, changed."""
    buffer = io.BytesIO()
    with np.load(folder / "head.npz") as head:
        np.savez(buffer, **change(dict(head)))
    return buffer.getvalue()


@pytest.fixture
def damaged(vit_exports: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the bundle with one file changed or left out; without sums, so that it is the content that is judged."""

    def make(name: str, content: bytes | None, *, sums: bool = False) -> Path:
        folder = tmp_path / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(vit_exports / "bundle", folder)
        if not sums:
            (folder / "SHA256SUMS").unlink()
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return folder

    return make


def test_damaged_bundles_are_one_sentence(
    damaged: Callable[..., Path], vit_exports: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    photo = save(picture(), tmp_path / "photo.png")
    bundle = vit_exports / "bundle"
    model = (bundle / "model.onnx").read_bytes()

    def told(name: str, content: bytes | None) -> str:
        return refused("predict", damaged(name, content), photo)

    def record(**changes: Any) -> str:
        return told("bundle.json", json.dumps(json.loads((bundle / "bundle.json").read_text()) | changes).encode())

    prepared = json.loads((bundle / "bundle.json").read_text())["preprocessing"]
    assert "is no bundle" in told("bundle.json", None)
    assert "format 3" in record(format=3)
    assert "its head is of another kind than its format" in record(format=2)
    assert "is damaged" in told("bundle.json", b"{")
    assert "do not fit together" in record(classes=["one", "two"])
    for classes in ("abcd", [1, 2, 3, 4], ["one"]):
        assert "classes are no list" in record(classes=classes)
    for temperature in (0, -1, float("nan"), float("inf")):
        assert "is damaged (ValueError: temperature" in record(temperature=temperature)
    assert "threshold nan" in record(threshold=float("nan"))
    assert "48 x 48 pixels, and its model takes" in record(preprocessing=prepared | {"size": 48})
    assert "interpolation nosuch" in record(preprocessing=prepared | {"interpolation": "nosuch"})
    assert "crop_mode nosuch" in record(preprocessing=prepared | {"crop_mode": "nosuch"})
    for change in ({"resize": 0}, {"resize": "36"}, {"mean": [0.5]}, {"std": [0.2, 0.2, 0]}, {"size": None}):
        assert "is damaged (ValueError" in record(preprocessing=prepared | change)
    assert "is damaged" in record(preprocessing=[])
    assert "is damaged" in told("model.onnx", model[:-5000])
    assert "is damaged" in told("model.onnx", None)
    assert "is damaged" in told("head.npz", b"torn")
    narrow = head_of(bundle, lambda head: head | {"weight": head["weight"][:, 1:]})
    assert "do not fit together" in told("head.npz", narrow)
    narrow = head_of(bundle, lambda head: head | {"weight": head["weight"][:, 1:], "mean": head["mean"][1:]})
    assert "do not fit together" in told("head.npz", narrow)
    assert "not finite" in told("head.npz", head_of(bundle, lambda head: head | {"bias": head["bias"] * np.nan}))


@pytest.mark.parametrize("name", ["bundle.json", "head.npz", "model.onnx"])
def test_a_flipped_bit_does_not_answer(
    name: str, damaged: Callable[..., Path], vit_exports: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    photo = save(picture(), tmp_path / "photo.png")
    content = bytearray((vit_exports / "bundle" / name).read_bytes())
    content[len(content) // 2] ^= 1
    folder = damaged(name, bytes(content), sums=True)
    assert f"{name} is not the file whose sum stands in SHA256SUMS" in refused("predict", folder, photo)
    done = subprocess.run([sys.executable, folder / "predict.py", photo], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("predict.py: the bundle ")
    assert done.stderr.count("\n") == 1


def test_a_model_that_fails_is_a_damaged_bundle(vit_exports: Path, tmp_path: Path) -> None:
    photo = save(picture(), tmp_path / "photo.png")
    predictor = bundle_predict.Predictor(vit_exports / "bundle")
    predictor.preprocessing["size"] = 48  # behind the checks: what onnxruntime itself refuses
    with pytest.raises(bundle_predict.BundleError, match="is damaged"):
        predictor.predict(photo)
    predictor = bundle_predict.Predictor(vit_exports / "bundle")
    predictor.preprocessing["mean"] = [float("inf")] * 3
    with pytest.raises(bundle_predict.BundleError, match="gives no 64 finite numbers"):
        predictor.predict(photo)


def test_a_name_that_is_no_text_is_whole_in_json(vit_exports: Path, tmp_path: Path) -> None:
    good, bad = (os.fsencode(tmp_path) + name for name in (b"/bl\xfcte.png", b"/nowhere\xff.png"))
    Path(os.fsdecode(good)).write_bytes(encoded(picture(), "PNG"))
    by_umbel: list[Any] = [sys.executable, "-m", "umbel", "predict", vit_exports / "bundle"]
    by_itself: list[Any] = [sys.executable, vit_exports / "bundle" / "predict.py"]
    for command in (by_umbel, by_itself):
        done = subprocess.run([*command, good, bad, "--json"], capture_output=True)
        assert done.returncode == 2
        assert [os.fsencode(row["photograph"]) for row in json.loads(done.stdout)] == [good, bad]
        done = subprocess.run([*command, good, bad], capture_output=True)
        assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
        assert b"bl?te.png: " in done.stdout


# --- Alone


def test_it_imports_three_packages_alone() -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(bundle_predict.__file__).read_text())):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_the_bundles_own_script_answers_as_the_command_does(
    vit_exports: Path, colors: Colors, tmp_path: Path, umbel: Callable[..., Any]
) -> None:
    script = vit_exports / "bundle" / "predict.py"
    assert script.read_text() == Path(bundle_predict.__file__).read_text()
    good = save(colors("crocus", 3), tmp_path / "crocus.jpg")
    (tmp_path / "notes.jpg").write_text("hello")
    for flags in ([], ["--json"]):
        arguments = [str(good), str(tmp_path / "notes.jpg"), *flags]
        code = BLOCKING.format(argv=[str(script), *arguments], script=str(script))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        expected = umbel("predict", vit_exports / "bundle", *arguments)
        assert (done.returncode, done.stdout) == (expected.code, expected.out), done.stderr
        assert done.stderr == f"predict.py: {tmp_path / 'notes.jpg'}: it is not an image.\n"


@pytest.mark.slow
def test_it_runs_where_there_is_nothing_else(vit_exports: Path, colors: Colors, tmp_path: Path) -> None:
    """In an environment of its own, with the three packages and what they bring."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = [python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, "onnxruntime", "numpy", "pillow"]
    done = subprocess.run(install, capture_output=True, text=True, env=environment)
    if done.returncode:
        pytest.skip(f"the three packages cannot be installed here ({done.stderr.strip().splitlines()[-1]})")
    there = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, env=environment).stdout
    assert "torch" not in there
    good = save(colors("anemone", 3), tmp_path / "anemone.jpg")
    shutil.copytree(vit_exports / "bundle", tmp_path / "field")
    run = [python, "-I", tmp_path / "field" / "predict.py", good]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{good}: anemone ")
    assert done.stderr == ""
