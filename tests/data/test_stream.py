"""Archives as streams: in their own order, whatever is missing, doubled, damaged or rooted elsewhere."""

import bz2
import errno
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from umbel.data import stream
from umbel.data.stream import DamagedArchiveError, is_archive, stream_members
from umbel.run import UserError

WriteTar = Callable[..., Path]
MEMBERS = {f"train/species{n % 4}/{n}.jpg": bytes([n]) * 600 * n for n in range(12)}
WANTED = list(MEMBERS)[::-1]
SUFFIX: dict[Callable[[bytes], bytes], str] = {
    bytes: "b.tar",
    gzip.compress: "b.tar.gz",
    bz2.compress: "b.tar.bz2",
    lzma.compress: "b.tar.xz",
}


def expected(*, skip: int = 0) -> list[tuple[int, bytes]]:
    return [(WANTED.index(name), content) for name, content in MEMBERS.items()][skip:]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_members_come_in_the_archives_order(
    compress: Callable[[bytes], bytes], tmp_path: Path, write_tar: WriteTar
) -> None:
    whole = write_tar(tmp_path / "a.tar", MEMBERS)
    path = tmp_path / SUFFIX[compress]
    path.write_bytes(compress(whole.read_bytes()))
    assert list(stream_members(path, WANTED)) == expected()


@pytest.mark.parametrize("skip", range(14))
def test_the_first_may_be_skipped_with_what_is_missing(skip: int, tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", dict(list(MEMBERS.items())[:11]))
    whole = list(stream_members(path, WANTED))
    assert whole == [*expected()[:11], (0, "it is not in a.tar")]
    assert list(stream_members(path, WANTED, skip)) == whole[skip:]


@pytest.mark.parametrize("root", ["", "./", "/data/", "2021/train/"])
def test_an_archive_may_be_rooted_anywhere(root: str, tmp_path: Path, write_tar: WriteTar) -> None:
    moved = {root + name.removeprefix("train/"): content for name, content in MEMBERS.items()}
    assert list(stream_members(write_tar(tmp_path / "a.tar", moved), WANTED)) == expected()


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", {"train/rosa/1.jpg": b"rosa", "train/salvia/1.jpg": b"salvia"})
    found = list(stream_members(path, ["train/salvia/1.jpg", "train/rosa/1.jpg", "train/acer/1.jpg"]))
    assert found == [(1, b"rosa"), (0, b"salvia"), (2, "it is not in a.tar")]


def test_strangers_folders_links_and_second_copies_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in [("train/x/9.png", b"no"), *MEMBERS.items(), ("train/species1/1.jpg", b"again")]:
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = "/etc/passwd"
            tar.addfile(link)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert list(stream_members(path, WANTED)) == expected()


def noisy(write_tar: WriteTar, tmp_path: Path) -> tuple[dict[str, bytes], Path]:
    """Members that do not compress, and their archive."""
    members = {name: np.random.default_rng(0).bytes(50_000) for name in MEMBERS}
    return members, write_tar(tmp_path / "a.tar", members)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("missing", [0.7, 0.1, 0.0001])
def test_a_cut_off_archive_gives_what_it_has_and_is_named(
    missing: float,
    compress: Callable[[bytes], bytes],
    tmp_path: Path,
    write_tar: WriteTar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 10240)
    members, path = noisy(write_tar, tmp_path)
    content = compress(path.read_bytes())
    if compress is bytes:
        content = content[: -10240 + 100]  # the zeros at the end
    path = path.rename(tmp_path / SUFFIX[compress])
    path.write_bytes(content[: int(len(content) * (1 - missing))])
    got, message = until_error(path)
    assert got == [(WANTED.index(name), content) for name, content in list(members.items())[: len(got)]]
    assert f"is cut off after {len(got)} of 12 photographs" in message
    if compress in (bytes, gzip.compress):  # the others give nothing of a block that is not whole
        assert len(got) >= {0.7: 3, 0.1: 10, 0.0001: 11}[missing]


def until_error(path: Path) -> tuple[list[tuple[int, bytes | str]], str]:
    """What an archive gives until it fails, and how it fails."""
    found = []
    try:
        for row in stream_members(path, WANTED):
            found.append(row)
    except UserError as error:
        return found, str(error)
    raise AssertionError(f"{path} did not fail")


def test_an_archive_cut_off_in_a_header_is_not_taken_for_a_whole_one(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset + 100])
    assert "is cut off after 11 of 12" in until_error(path)[1]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b rubbish", b"x" * 10240], ids=repr)
@pytest.mark.parametrize("name", SUFFIX.values())
def test_what_is_no_archive_is_told(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found, message = until_error(tmp_path / name)
    assert found == []
    assert "after 0 of 12" in message


def test_an_empty_archive_lacks_all(tmp_path: Path, write_tar: WriteTar) -> None:
    path = write_tar(tmp_path / "a.tar", {})
    assert [found for _, found in stream_members(path, WANTED)] == ["it is not in a.tar"] * 12


def test_a_flipped_byte_inside_gzip_is_told(tmp_path: Path, write_tar: WriteTar) -> None:
    _, path = noisy(write_tar, tmp_path)
    content = bytearray(gzip.compress(path.read_bytes()))
    content[len(content) // 2] ^= 255
    path = path.rename(tmp_path / "a.tar.gz")
    path.write_bytes(content)
    with pytest.raises(DamagedArchiveError, match="is damaged"):
        list(stream_members(path, WANTED))


def test_members_beyond_all_measure_are_not_read(
    tmp_path: Path, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_BYTES", 1200)
    found = dict(stream_members(write_tar(tmp_path / "a.tar", MEMBERS), WANTED))
    assert sum(isinstance(content, bytes) for content in found.values()) == 3
    assert "larger than" in str(found[0])


def test_memory_does_not_grow_with_the_members(tmp_path: Path, write_tar: WriteTar) -> None:
    import tracemalloc

    filler = {"x/large.txt": bytes(8 << 20)}
    few = write_tar(tmp_path / "few.tar", filler | MEMBERS)
    many = write_tar(tmp_path / "many.tar", filler | {f"x/{n}.txt": b"" for n in range(5000)} | MEMBERS)
    peaks = []
    for path in (few, many):
        tracemalloc.start()
        held = [tracemalloc.get_traced_memory()[0] for _ in stream_members(path, WANTED)]
        assert len(held) == 12
        peaks.append(max(held))
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000


def test_archives_are_told_by_their_names() -> None:
    assert all(is_archive(Path(name)) for name in ("a.tar", "a.tar.gz", "A.TGZ", "a.tar.xz", "a.tar.bz2"))
    assert not any(is_archive(Path(name)) for name in ("a.zip", "train", "a.gz", "tar"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_failing_disk_is_no_damaged_archive(
    name: str, tmp_path: Path, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    if name != path.name:
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes(), 0))

    class Failing(io.FileIO):
        """Fails behind 20,000 bytes as a disk does."""

        def read(self, size: int = -1, /) -> bytes:
            if self.tell() >= 20_000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(min(size, 4096) if size >= 0 else 4096)

    def opened(path: Path) -> IO[bytes]:
        file = Failing(path)
        return gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[return-value]

    monkeypatch.setattr(stream, "_opener", lambda path: opened)
    with pytest.raises(UserError, match=r"cannot be read any further after \d+ of 12 .*Input/output error") as told:
        list(stream_members(tmp_path / name, WANTED))
    assert not isinstance(told.value, DamagedArchiveError)
