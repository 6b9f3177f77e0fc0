"""Damaged tar files, two hundred of them: each is read or refused in one sentence that names it; nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from umbel.data import unreadable
from umbel.data.index import open_shards
from umbel.data.training import TrainingDataset
from umbel.run import UserError

SHARD = "train-000000.tar"


def mutated(content: bytes, dice: np.random.Generator) -> bytes:
    """One to four accidents, most of them to headers."""
    data = bytearray(content)
    for _ in range(dice.integers(1, 5)):
        block = 512 * int(dice.integers(0, max(1, len(data) // 512)))
        match dice.integers(0, 7):
            case 0:  # a bit
                place = int(dice.integers(len(data)))
                data[place] ^= 1 << int(dice.integers(8))
            case 1:  # bytes of a header
                for place in dice.integers(block, block + 512, 6):
                    if place < len(data):
                        data[place] = int(dice.integers(256))
            case 2:  # the size field of what may be a header
                data[block + 124 : block + 136] = bytes(dice.choice(list(b"01234567 \0\xff\x80"), 12).astype(np.uint8))
            case 3:  # cut off
                del data[int(dice.integers(512, len(data) + 1)) :]
            case 4:  # a block twice
                data[block:block] = data[block : block + 512]
            case 5:  # a block lost
                del data[block : block + 512]
            case 6:  # a block of zeros
                data[block : block + 512] = bytes(len(data[block : block + 512]))
        if len(data) < 512:
            break
    return bytes(data)


def sound(members: bytes, dice: np.random.Generator) -> bytes:
    """A mutation whose headers tell their own sums, so that the damage behind them is met."""
    data = bytearray(mutated(members, dice))
    for block in range(0, len(data) - 511, 512):
        if data[block + 257 : block + 262] == b"ustar":
            header = data[block : block + 512]
            header[148:156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


@pytest.mark.parametrize("mutate", [mutated, sound])
def test_a_mutated_shard_is_read_or_refused_in_a_sentence(
    mutate: Callable[[bytes, np.random.Generator], bytes],
    tmp_path: Path,
    foreign_shards: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unreadable, "PAUSES", ())
    whole = (foreign_shards(shards=1, count=6) / SHARD).read_bytes()
    read = damaged = 0
    refused: list[tuple[Path, str]] = []
    for seed in range(100):
        path = tmp_path / f"{seed}" / SHARD
        path.parent.mkdir()
        path.write_bytes(mutate(whole, np.random.default_rng(seed)))
        try:
            data = TrainingDataset(open_shards(str(path)), seed=0, canvas=64, window=1, weights=True, text=True)
            batch = data.__getitems__(list(range(len(data))))
        except UserError as error:
            refused.append((path, str(error)))
        else:
            assert sorted(batch.sample) == list(range(len(data)))
            read += 1
            damaged += bool(batch.bad)
    for path, sentence in refused:
        assert str(path.parent) in sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert read + len(refused) == 100
    assert min(read, len(refused), damaged) > 5
