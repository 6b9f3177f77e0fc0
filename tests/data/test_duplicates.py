"""Duplicates: every pair that a comparison of all with all finds is found, and no other."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from umbel.data import duplicates
from umbel.data.duplicates import Prints, repeats_between, repeats_within
from umbel.data.perceptual_hash import COARSE_REACH, FINE_BITS, perceptual_hash


def made(seed: int, count: int, *, families: int, turned: int) -> Prints:
    """Prints that come in families: up to `turned` coarse bits, and four times as many fine ones, differ from one."""
    rng = np.random.default_rng(seed)
    heads = rng.integers(0, 2, (families, 64 + FINE_BITS), dtype=np.uint8)
    bits = heads[rng.integers(0, families, count)]
    for row in bits:
        row[rng.choice(64, rng.integers(0, turned + 1), replace=False)] ^= 1
        row[64 + rng.choice(FINE_BITS, rng.integers(0, 4 * turned + 1), replace=False)] ^= 1
    packed = np.packbits(bits, axis=1)
    digests = rng.integers(0, max(2 * count // 3, 1), count)
    return Prints(
        digest=np.frombuffer(b"".join(int(d).to_bytes(16, "big") for d in digests), dtype="V16"),
        coarse=np.ascontiguousarray(packed[:, :8]).view(np.uint64).ravel(),
        fine=np.ascontiguousarray(packed[:, 8:]).view(np.uint64),
    )


def plain(prints: Prints, others: Prints | None, distance: int) -> list[tuple[int, int, int]]:
    """The same by comparing all with all, one pair at a time."""
    base = prints if others is None else others
    found = []
    firsts = [i for i in range(len(prints)) if not any((prints.digest[j] == prints.digest[i]) for j in range(i))]
    for i in range(len(prints)):
        rows = range(i) if others is None else range(len(base))
        same = [j for j in rows if base.digest[j] == prints.digest[i]]
        if same:
            found.append((i, same[0], -1))
            continue
        near = []
        for j in rows:
            if others is None and j not in firsts:
                continue
            coarse = bin(int(base.coarse[j]) ^ int(prints.coarse[i])).count("1")
            fine = sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(base.fine[j], prints.fine[i], strict=True))
            if coarse <= COARSE_REACH and fine <= distance:
                near.append((fine, j))
        if near:
            found.append((i, min(near)[1], min(near)[0]))
    return found


def rows(found: duplicates.Repeats) -> list[tuple[int, int, int]]:
    return list(zip(found.photograph.tolist(), found.original.tolist(), found.distance.tolist(), strict=True))


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 40),
    families=st.integers(1, 6),
    turned=st.integers(0, 9),
    distance=st.integers(0, 70),
)
def test_repeats_within_equal_a_comparison_of_all_with_all(
    seed: int, count: int, families: int, turned: int, distance: int
) -> None:
    prints = made(seed, count, families=families, turned=turned)
    assert rows(repeats_within(prints, distance=distance)) == plain(prints, None, distance)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), counts=st.tuples(st.integers(0, 25), st.integers(0, 25)), turned=st.integers(0, 9))
def test_repeats_between_equal_a_comparison_of_all_with_all(seed: int, counts: tuple[int, int], turned: int) -> None:
    everything = made(seed, sum(counts), families=4, turned=turned)
    prints, others = everything.take(np.arange(counts[0])), everything.take(np.arange(counts[0], sum(counts)))
    assert rows(repeats_between(prints, others, distance=30)) == plain(prints, others, 30)


def test_candidates_in_small_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = made(3, 200, families=3, turned=5)
    whole = rows(repeats_within(prints, distance=20))
    monkeypatch.setattr(duplicates, "CHUNK", 7)
    assert rows(repeats_within(prints, distance=20)) == whole


@pytest.mark.parametrize("bit", range(64))
def test_seven_bits_are_reached_wherever_they_lie(bit: int) -> None:
    """Two bits turned in every quarter but the one of `bit`, where it is the only one: only that bit finds the pair."""
    turned = 1 << bit
    for quarter in range(4):
        if quarter != bit // 16:
            turned |= 0b11 << (16 * quarter)
    fine = np.zeros((2, 4), np.uint64)
    prints = Prints(
        digest=np.array([b"0" * 16, b"1" * 16]).view("V16"), coarse=np.array([5, 5 ^ turned], np.uint64), fine=fine
    )
    assert rows(repeats_within(prints, distance=0)) == [(1, 0, 0)]


def photograph(seed: int) -> Tensor:
    """A smooth picture with some detail, (3, 120, 160)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((160, 120), 3)
    detail = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((160, 120), 3)
    return torch.from_numpy(np.asarray(Image.blend(coarse, detail, 0.3)).copy()).permute(2, 0, 1)


def again(image: Tensor, change: Callable[[Image.Image], Image.Image], quality: int) -> Tensor:
    buffer = io.BytesIO()
    change(Image.fromarray(image.permute(1, 2, 0).numpy())).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)


def differ(one: Tensor, other: Tensor) -> tuple[int, int]:
    (coarse, fine), (coarse_2, fine_2) = perceptual_hash(one), perceptual_hash(other)
    return int(np.bitwise_count(coarse ^ coarse_2)), int(np.bitwise_count(fine ^ fine_2).sum())


@pytest.mark.parametrize(
    ("change", "quality"),
    [
        (lambda image: image, 30),
        (lambda image: image.resize((80, 60), 3), 90),
        (lambda image: image.crop((1, 1, 159, 119)), 90),
        (lambda image: image.point(lambda level: min(255, round(level * 1.15))), 90),
    ],
    ids=["compressed", "half as large", "cropped by a percent", "brighter"],
)
def test_a_copy_has_nearly_the_same_hash(change: Callable[[Image.Image], Image.Image], quality: int) -> None:
    for seed in range(10):
        image = photograph(seed)
        coarse, fine = differ(image, again(image, change, quality))
        assert coarse <= COARSE_REACH
        assert fine <= 64


def test_other_photographs_have_other_hashes() -> None:
    for seed in range(20):
        coarse, fine = differ(photograph(seed), photograph(seed + 100))
        assert coarse > 2 * COARSE_REACH
        assert fine > 90


def test_the_hash_is_the_sign_of_the_lowest_frequencies() -> None:
    """Against a cosine transform written out; the median leaves half of the bits set."""
    image = photograph(1)
    small = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((64, 64), 2), dtype=np.float64)
    gray = small @ [0.299, 0.587, 0.114]
    k, n = np.arange(16)[:, None], np.arange(64)[None]
    basis = np.cos(np.pi * (n + 0.5) * k / 64) * np.where(k == 0, np.sqrt(1 / 64), np.sqrt(2 / 64))
    frequencies = basis @ gray @ basis.T
    coarse, fine = perceptual_hash(image)
    for side, found in ((8, np.array([coarse])), (16, fine)):
        part = frequencies[:side, :side].ravel()
        bits = np.unpackbits(found.view(np.uint8))
        assert bits[1:].sum() == (side * side - 1) // 2
        clear = np.abs(part - np.median(part[1:])) > 2  # Pillow's resize rounds otherwise than torchvision's
        assert (bits[clear] == (part > np.median(part[1:]))[clear]).all()
        assert clear.mean() > 0.9
