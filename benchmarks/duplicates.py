"""What the perceptual hash finds of changed copies, and how long a million of hashes take to be compared.

python benchmarks/duplicates.py SHARDS          (photographs whose changed copies are looked for)
"""

from __future__ import annotations

import argparse
import io
import platform
import subprocess
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps

from umbel import __version__
from umbel.data.decode import FULL_SIZE, decode
from umbel.data.duplicates import Prints, repeats_between, repeats_within
from umbel.data.index import open_shards
from umbel.data.perceptual_hash import FINE_BITS, perceptual_hash
from umbel.data.reader import ShardReader

Change = Callable[[Image.Image], Image.Image]


def cropped(share: float) -> Change:
    """Cut off a share of the width and of the height, evenly on both sides."""

    def change(image: Image.Image) -> Image.Image:
        x, y = image.width * share / 2, image.height * share / 2
        return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))

    return change


def barred(image: Image.Image) -> Image.Image:
    """A white bar over the lowest 7 % of the height, as captions make it."""
    changed = image.copy()
    changed.paste((255, 255, 255), (0, round(image.height * 0.93), image.width, image.height))
    return changed


CHANGES: dict[str, tuple[Change, int]] = {
    "compressed, quality 50": (lambda image: image, 50),
    "compressed, quality 20": (lambda image: image, 20),
    "half as large": (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), 85),
    "brighter by a fifth": (lambda image: image.point(lambda level: min(255, round(level * 1.2))), 90),
    "cropped by 2 %": (cropped(0.02), 90),
    "cropped by 5 %": (cropped(0.05), 90),
    "cropped by 10 %": (cropped(0.1), 90),
    "with a bar of 7 %": (barred, 90),
    "mirrored": (ImageOps.mirror, 90),
}


def prints_of(images: list[torch.Tensor], first: int) -> Prints:
    """What photographs (3, H, W) uint8 are recognized by; every digest is another."""
    hashes = [perceptual_hash(image) for image in images]
    digests = b"".join((first + number).to_bytes(16, "big") for number in range(len(images)))
    return Prints(
        digest=np.frombuffer(digests, dtype="V16"),
        coarse=np.array([coarse for coarse, _ in hashes], dtype=np.uint64),
        fine=np.stack([fine for _, fine in hashes]),
    )


def changed(image: torch.Tensor, change: Change, quality: int) -> torch.Tensor:
    """A photograph changed and compressed again."""
    buffer = io.BytesIO()
    change(Image.fromarray(image.permute(1, 2, 0).numpy())).save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue(), canvas=FULL_SIZE)


def found_again(images: list[torch.Tensor], distance: int) -> None:
    """Print the share of changed copies that are found, by change."""
    originals = prints_of(images, 0)
    for name, (change, quality) in CHANGES.items():
        copies = prints_of([changed(image, change, quality) for image in images], len(images))
        found = repeats_between(copies, originals, distance=distance)
        right = int((found.photograph == found.original).sum())
        wrong = len(found.photograph) - right
        print(f"{name:<26} {right / len(images):7.1%} found, {wrong} taken for another", flush=True)


def a_million(prints: Prints, count: int) -> None:
    """Print how long it takes to compare `count` hashes made of real ones, a fifth of whose bits are turned."""
    generator = np.random.default_rng(0)
    bits = np.unpackbits(np.column_stack([prints.coarse, prints.fine]).view(np.uint8), axis=1)
    bits = bits[generator.integers(0, len(bits), count)]
    bits ^= generator.random(bits.shape, dtype=np.float32) < 0.2
    packed = np.packbits(bits, axis=1)
    packed[-500:] = packed[:500]
    many = Prints(
        digest=np.frombuffer(generator.bytes(16 * count), dtype="V16"),
        coarse=np.ascontiguousarray(packed[:, :8]).view(np.uint64).ravel(),
        fine=np.ascontiguousarray(packed[:, 8:]).view(np.uint64),
    )
    started = time.perf_counter()
    found = repeats_within(many, distance=64)
    seconds = time.perf_counter() - started
    print(f"{count:,} hashes compared in {seconds:.1f} s: {len(found.photograph)} repeats (500 were put there)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--count", type=int, default=300, help="photographs that are changed")
    parser.add_argument("--distance", type=int, default=64, help=f"of {FINE_BITS} bits")
    parser.add_argument("--million", type=int, default=1_100_000, help="hashes to compare")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"umbel {__version__} {commit or '(no git)'}, numpy {np.__version__}, {platform.machine()}")
    shards = open_shards(options.shards)
    reader = ShardReader(shards)
    drawn = np.random.default_rng(0).permutation(len(shards))[: options.count]
    images = [decode(reader.read(int(sample), "jpg"), canvas=FULL_SIZE) for sample in sorted(drawn)]
    found_again(images, options.distance)
    a_million(prints_of(images, 0), options.million)


if __name__ == "__main__":
    main()
