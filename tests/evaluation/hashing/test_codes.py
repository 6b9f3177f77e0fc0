"""Codes and coders as folders: there and back, and what damaged ones answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from umbel.evaluation.hashing import BASELINES, Codes, HashCoder, Hasher, load_hasher, pack, save_hasher
from umbel.run import UserError


def random_codes(bits: int = 12) -> Codes:
    generator = np.random.default_rng(0)
    return Codes(
        packed=pack(generator.random((6, bits)) < 0.5),
        bits=bits,
        label=np.array([0, 1, -1, 1, 0, 0]),
        split=np.array([0, 0, 0, 0, 1, 1]),
        keys=tuple(f"plant_{row}" for row in range(6)),
        splits=("train", "test"),
        classes=("Rosa", "Sálvia"),
        provenance={"coder": {"method": "itq"}},
    )


def hashers() -> list[Hasher]:
    torch.manual_seed(0)
    features = np.random.default_rng(0).normal(size=(30, 9)).astype(np.float32)
    fitted: list[Hasher] = [kind(5, seed=3).fit(features) for kind in BASELINES.values()]
    return [*fitted, HashCoder(9, 5, affine=True).eval(), HashCoder(9, 5, size="large").eval()]


def test_codes_there_and_back(tmp_path: Path) -> None:
    codes = random_codes()
    codes.save(tmp_path / "deep" / "codes")
    again = Codes.load(tmp_path / "deep" / "codes")
    for name, value in vars(codes).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    told = json.loads((tmp_path / "deep" / "codes" / "codes.json").read_text())
    assert (told["format"], told["bits"], told["count"]) == (1, 12, 6)
    assert "numpy.packbits" in told["packing"]


def change(folder: Path, name: str, value: object) -> None:
    told = json.loads((folder / "codes.json").read_text())
    told[name] = value
    (folder / "codes.json").write_text(json.dumps(told))


def spoil_padding(folder: Path) -> None:
    arrays = load_file(folder / "codes.safetensors")
    arrays["packed"][0, -1] |= 1
    save_file(arrays, folder / "codes.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "codes.json").unlink(), "holds no codes"),
        (lambda f: (f / "codes.json").write_text("{"), "cannot be read"),
        (lambda f: change(f, "format", 2), "upgrade Umbel"),
        (lambda f: change(f, "bits", 17), "do not fit together"),
        (lambda f: change(f, "bits", "many"), "cannot be read"),
        (lambda f: change(f, "count", 7), "do not fit together"),
        (lambda f: (f / "keys.txt").write_text("a\n"), "keys.txt has 2 bytes"),
        (lambda f: (f / "keys.txt").unlink(), "cannot be read"),
        (lambda f: (f / "codes.safetensors").write_bytes(b"hello, codes"), "cannot be read"),
        (spoil_padding, "bits behind the last one are set"),
    ],
)
def test_damaged_codes_are_refused(spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    random_codes().save(tmp_path / "codes")
    spoil(tmp_path / "codes")
    with pytest.raises(UserError, match=words):
        Codes.load(tmp_path / "codes")


@pytest.mark.parametrize("number", range(6))
def test_hashers_there_and_back(number: int, tmp_path: Path) -> None:
    hasher = hashers()[number]
    save_hasher(tmp_path / "coder", hasher, {"note": "ü"})
    again, provenance = load_hasher(tmp_path / "coder")
    features = np.random.default_rng(1).normal(size=(20, 9)).astype(np.float32)
    assert (again.method, again.width, again.bits) == (hasher.method, 9, 5)
    np.testing.assert_array_equal(again.logits(features), hasher.logits(features))
    assert provenance == {"note": "ü"}
    assert sorted(path.name for path in (tmp_path / "coder").iterdir()) == ["coder.json", "coder.safetensors"]


def spoil_record(folder: Path, **changes: object) -> None:
    told = json.loads((folder / "coder.json").read_text())
    for name, value in changes.items():
        (told["settings"] if name in ("bits", "width", "size", "more") else told)[name] = value
    (folder / "coder.json").write_text(json.dumps(told))


def spoil_tensors(folder: Path, **changes: np.ndarray | None) -> None:
    arrays = load_file(folder / "coder.safetensors") | {k: v for k, v in changes.items() if v is not None}
    save_file({k: v for k, v in arrays.items() if changes.get(k, v) is not None}, folder / "coder.safetensors")


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "coder.json").unlink(), "holds no hash coder"),
        (lambda f: spoil_record(f, format=2), "upgrade Umbel"),
        (lambda f: spoil_record(f, method="magic"), "method 'magic' is unknown"),
        (lambda f: spoil_record(f, bits=6), "cannot be read"),
        (lambda f: spoil_record(f, width=8), "cannot be read"),
        (lambda f: spoil_record(f, bits="five"), "cannot be read"),
        (lambda f: spoil_record(f, settings={}), "cannot be read"),
        (lambda f: (f / "coder.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "coder.safetensors").write_bytes(b"hello, coder"), "cannot be read"),
        (lambda f: spoil_tensors(f, more=np.zeros(3, np.float32)), "cannot be read"),
        (lambda f: spoil_tensors(f, mean=np.full(9, np.nan, np.float32)), "mean is not finite"),
    ],
)
def test_damaged_coders_are_refused(number: int, spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    save_hasher(tmp_path / "coder", hashers()[number], {})
    spoil(tmp_path / "coder")
    with pytest.raises(UserError, match=words):
        load_hasher(tmp_path / "coder")


def test_codes_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """They do not tell where the lines of keys.txt end."""
    random_codes().save(tmp_path / "codes")
    arrays = load_file(tmp_path / "codes" / "codes.safetensors")
    assert arrays.pop("key_end").tolist() == list(range(8, 56, 8))
    save_file(arrays, tmp_path / "codes" / "codes.safetensors")
    again = Codes.load(tmp_path / "codes")
    assert tuple(again.keys) == random_codes().keys
    np.testing.assert_array_equal(again.packed, random_codes().packed)


def test_codes_are_mapped_not_read(tmp_path: Path) -> None:
    random_codes(64).save(tmp_path / "codes")
    codes = Codes.load(tmp_path / "codes")
    assert isinstance(codes.packed.base, np.memmap)
    assert not codes.packed.flags.writeable
    assert [codes.name(row) for row in range(3)] == ["Rosa", "Sálvia", None]
