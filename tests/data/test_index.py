"""The index: every member found where it lies, shards from elsewhere indexed in the cache, every fault named."""

import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset

from umbel.data.index import find_shards, open_shards
from umbel.data.reader import ShardReader
from umbel.data.scan import split_of
from umbel.run import UserError

Foreign = Callable[..., Path]
Made = Callable[..., Path]
Tar = Callable[[Path, Mapping[str, bytes]], Path]


def tar_members(paths: list[Path]) -> list[tuple[str, bytes]]:
    """(name, bytes) of all members, as Python's tarfile reads them."""
    found = []
    for path in paths:
        with tarfile.open(path) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return found


def read_all(data: str | Path) -> list[tuple[str, bytes]]:
    """The same through the index."""
    shards = open_shards(str(data))
    reader = ShardReader(shards)
    found = []
    for sample in range(len(shards)):
        for kind in ("jpg", "json", "txt"):
            content = reader.read(sample, kind)
            if content:
                found.append((f"{shards.key(sample)}.{kind}", content))
    return found


def test_made_shards_are_read_as_tarfile_reads_them(made_shards: Made) -> None:
    folder = made_shards()
    expected = [(n, c) for n, c in tar_members(find_shards(str(folder))) if not n.endswith(".cls")]
    assert sorted(read_all(folder)) == sorted(expected)
    assert len(expected) == 12


def test_labels_and_classes_are_read(made_shards: Made) -> None:
    folder = made_shards()
    shards = open_shards(str(folder))
    assert shards.classes == ("rosa", "salvia")
    cls = {n.removesuffix(".cls"): int(c) for n, c in tar_members(find_shards(str(folder))) if n.endswith(".cls")}
    assert {shards.key(n): int(shards.members["label"][n]) for n in range(6)} == cls


def test_the_written_index_tells_its_format_and_sums(made_shards: Made) -> None:
    import hashlib

    folder = made_shards()
    index = json.loads((folder / "index.json").read_text())
    assert (index["format"], index["splits"], index["classes"]) == (1, {"train": 6}, ["rosa", "salvia"])
    for row in index["shards"]:
        content = (folder / row["name"]).read_bytes()
        assert (row["bytes"], row["count"], row["split"]) == (len(content), 3, "train")
        assert row["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.fixture
def webdataset_shards(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    """Shards as webdataset's own writer makes them, with labels, metadata and captions."""
    folder = tmp_path / "wds"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=3, verbose=0) as writer:
        for number in range(7):
            row = {"__key__": f"field/plant{number:03d}", "jpg": jpeg(number), "cls": number % 2}
            writer.write(row | {"json": {"n": number}, "txt": f"plant {number} é"})
    return folder


def test_shards_written_by_webdataset_are_read(webdataset_shards: Path) -> None:
    expected = [(n, c) for n, c in tar_members(find_shards(str(webdataset_shards))) if not n.endswith(".cls")]
    assert sorted(read_all(webdataset_shards)) == sorted(expected)
    assert open_shards(str(webdataset_shards)).members["label"].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_the_index_of_foreign_shards_is_kept_in_the_cache_and_not_beside_them(
    webdataset_shards: Path, own_cache: Path
) -> None:
    before = sorted(webdataset_shards.iterdir())
    open_shards(str(webdataset_shards))
    assert sorted(webdataset_shards.iterdir()) == before
    index = next(own_cache.rglob("index.json"))
    state = index.stat().st_mtime_ns
    open_shards(str(webdataset_shards))
    assert list(own_cache.rglob("index.json")) == [index]
    assert index.stat().st_mtime_ns == state


def test_a_changed_file_gets_a_new_index(foreign_shards: Foreign, write_tar: Tar, jpeg: Callable[..., bytes]) -> None:
    folder = foreign_shards(shards=1, count=3)
    first = open_shards(str(folder)).fingerprint()
    path = write_tar(folder / "train-000000.tar", {f"other_{n}.jpg": jpeg(n + 50) for n in range(3)})
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))
    shards = open_shards(str(folder))
    assert shards.fingerprint() != first
    assert [shards.key(n) for n in range(3)] == ["other_0", "other_1", "other_2"]


def test_class_names_added_later_are_read(foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    assert open_shards(str(folder)).classes == ()
    (folder / "classes.txt").write_text("rosa\nsalvia\nviola\n")
    assert open_shards(str(folder)).classes == ("rosa", "salvia", "viola")


def test_the_fingerprint_does_not_depend_on_the_place(made_shards: Made, foreign_shards: Foreign) -> None:
    for folder in (made_shards(), foreign_shards()):
        before = open_shards(str(folder)).fingerprint()
        moved = folder.rename(folder.with_name(f"{folder.name}-moved"))
        assert open_shards(str(moved)).fingerprint() == before


def test_the_fingerprint_tells_contents_apart(foreign_shards: Foreign) -> None:
    prints = {
        open_shards(str(foreign_shards(folder="a"))).fingerprint(),
        open_shards(str(foreign_shards(folder="b", split="val"))).fingerprint(),
        open_shards(str(foreign_shards(folder="c", width=60))).fingerprint(),
        open_shards(str(foreign_shards(folder="d", count=3))).fingerprint(),
    }
    assert len(prints) == 4


def test_unlabelled_is_read_as_unlabeled(foreign_shards: Foreign) -> None:
    shards = open_shards(str(foreign_shards(split="unlabelled")))
    assert {shard.split for shard in shards.shards} == {"unlabeled"}
    assert len(shards.select(["unlabeled"])) == 8


@pytest.mark.parametrize("name", ["train.tar", "train-1.tar", "train_000000.tar", "-000000.tar", "tr ain-000000.tar"])
def test_a_shard_of_another_name_is_refused(name: str, foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=1)
    path = (folder / "train-000000.tar").rename(folder / name)
    with pytest.raises(UserError, match=r"must be named <split>-NNNNNN\.tar"):
        open_shards(str(path))
    assert find_shards(str(folder)) == []
    with pytest.raises(UserError, match="there are no shards"):
        open_shards(str(folder))


def test_more_than_a_million_shards_may_be_counted() -> None:
    assert split_of(Path("train-1000000.tar")) == "train"


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("train-{000000..000002}.tar", 3),
        ("{train,val}-000001.tar", 2),
        ("train-00000{0,2}.tar", 2),
        ("train-000001.tar", 1),
        ("", 5),
    ],
)
def test_patterns_name_shards(pattern: str, count: int, foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=3, count=2)
    foreign_shards(shards=2, count=2, split="val")
    shards = open_shards(str(folder / pattern))
    assert len(shards.shards) == count
    assert len(read_all(folder / pattern)) == 2 * count


@pytest.mark.parametrize("pattern", ["train-00000{1,0}.tar", "train-000001.tar"])
def test_a_pattern_picks_from_a_written_index(pattern: str, made_shards: Made) -> None:
    folder = made_shards()
    paths = find_shards(str(folder / pattern))
    expected = [(n, c) for n, c in tar_members(paths) if not n.endswith(".cls")]
    assert sorted(read_all(folder / pattern)) == sorted(expected)
    assert [shard.path for shard in open_shards(str(folder / pattern)).shards] == paths


def test_a_pattern_over_two_folders_reads_both_or_refuses(foreign_shards: Foreign) -> None:
    """Shards of one name in two folders must not be taken for one another."""
    first = foreign_shards(shards=1, count=2, folder="a")
    second = foreign_shards(shards=1, count=3, folder="b", split="train")
    pattern = str(first.parent / "{a,b}" / "train-000000.tar")
    expected = tar_members([first / "train-000000.tar", second / "train-000000.tar"])
    try:
        found = read_all(pattern)
    except UserError:
        return
    assert sorted(found) == sorted((n, c) for n, c in expected if n.endswith(".jpg"))


def test_a_pattern_over_two_made_folders_reads_both_or_refuses(made_shards: Made) -> None:
    first = made_shards("a")
    second = made_shards("b", quality=40)
    try:
        found = read_all(str(first.parent / "{a,b}" / "train-{000000..000001}.tar"))
    except UserError:
        return
    expected = tar_members([*find_shards(str(first)), *find_shards(str(second))])
    assert sorted(found) == sorted((n, c) for n, c in expected if not n.endswith(".cls"))


@pytest.mark.parametrize("pattern", ["train-{000000..000009}.tar", "train-{000000..000009.tar", "train-000009.tar"])
def test_a_pattern_that_names_what_is_not_there_is_answered(pattern: str, foreign_shards: Foreign) -> None:
    with pytest.raises(UserError):
        open_shards(str(foreign_shards() / pattern))


def test_splits_are_selected_with_their_samples(foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=2, count=3)
    foreign_shards(shards=1, count=2, split="val")
    foreign_shards(shards=1, count=1, split="unlabeled")
    shards = open_shards(str(folder))
    whole = ShardReader(shards)
    by_key = {shards.key(n): n for n in range(len(shards))}
    # Of the shards train, train, unlabeled and val, each choice but the first leaves out one in front of another.
    for splits, counts in ((["train", "unlabeled"], [3, 3, 1]), (["val", "unlabeled"], [1, 2]), (["val"], [2])):
        chosen = shards.select(splits)
        assert [shard.count for shard in chosen.shards] == counts
        assert {chosen.key(n).split("_")[0] for n in range(len(chosen))} == set(splits)
        reader = ShardReader(chosen)
        for sample in range(len(chosen)):
            assert reader.read(sample, "jpg") == whole.read(by_key[chosen.key(sample)], "jpg")
    with pytest.raises(UserError, match="no shard is of split test; there are: train, unlabeled, val"):
        shards.select(["test"])


@pytest.mark.parametrize("keep", [0.5, 0.97, 0.01])
def test_a_foreign_shard_that_was_cut_is_named(keep: float, foreign_shards: Foreign) -> None:
    folder = foreign_shards(shards=2, count=6, width=200, height=200)
    path = folder / "train-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[: int((len(content) - 10240) * keep)])
    with pytest.raises(UserError, match=r"train-000001\.tar is cut off or not a tar file"):
        open_shards(str(folder))


def test_a_made_shard_that_was_cut_is_named(made_shards: Made) -> None:
    path = made_shards() / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(UserError, match=r"train-000001\.tar is cut off: \d+ bytes, where its index has \d+"):
        open_shards(str(path.parent))


def test_a_made_shard_that_grew_is_named(made_shards: Made) -> None:
    path = made_shards() / "train-000001.tar"
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    with pytest.raises(UserError, match=r"train-000001\.tar is longer than it was"):
        open_shards(str(path.parent))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08\x00" + b"\0" * 600, b"x" * 2000])
def test_a_file_that_is_no_tar_is_named(content: bytes, foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    (folder / "train-000001.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"train-000001\.tar is cut off or not a tar file"):
        open_shards(str(folder))


def test_a_missing_shard_is_named(made_shards: Made) -> None:
    folder = made_shards()
    (folder / "train-000000.tar").unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar is missing"):
        open_shards(str(folder))


def test_a_shard_that_the_index_does_not_list_is_named(made_shards: Made) -> None:
    folder = made_shards()
    (folder / "train-000007.tar").write_bytes((folder / "train-000000.tar").read_bytes())
    with pytest.raises(UserError, match=r"train-000007\.tar is not in .*index\.json"):
        open_shards(str(folder))


@pytest.mark.parametrize("name", ["members.npy", "keys.npy"])
@pytest.mark.parametrize("damage", [None, b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_an_index_that_lost_a_file_or_has_it_damaged_is_named(
    name: str, damage: bytes | None, made_shards: Made
) -> None:
    """index.json and the tars copied without the rest."""
    folder = made_shards()
    (folder / name).unlink()
    if damage is not None:
        (folder / name).write_bytes(damage)
    with pytest.raises(UserError, match=name):
        open_shards(str(folder))


@pytest.mark.parametrize(
    "text", ['{"format": 2}', '{"format": 1}', '{"format": 1, "shards": [{}]}', "{", '{"shards": [], "version": 2}']
)
def test_an_index_that_is_not_ours_is_answered_in_a_sentence(text: str, foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    (folder / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json"):
        open_shards(str(folder))


@pytest.mark.parametrize(("field", "value"), [("jpg_bytes", 2**40), ("jpg_offset", -512), ("txt_bytes", -1)])
def test_an_index_that_points_outside_its_shards_is_refused(field: str, value: int, made_shards: Made) -> None:
    """It may come from anywhere, and a reader would ask the system for as many bytes as it tells."""
    folder = made_shards()
    members = np.load(folder / "members.npy")
    members[field][1] = value
    np.save(folder / "members.npy", members)
    with pytest.raises(UserError, match="it names members outside their shards"):
        open_shards(str(folder))


def shard_of(folder: Path, write_tar: Tar, members: Mapping[str, bytes]) -> str:
    write_tar(folder / "train-000000.tar", members)
    return str(folder)


def test_a_sample_without_a_photograph_is_named(tmp_path: Path, write_tar: Tar, jpeg: Callable[..., bytes]) -> None:
    data = shard_of(tmp_path, write_tar, {"a.jpg": jpeg(1), "b.cls": b"1"})
    with pytest.raises(UserError, match="sample 'b' has no photograph"):
        open_shards(data)


def test_a_shard_of_png_images_is_not_read_as_an_empty_one(tmp_path: Path, write_tar: Tar) -> None:
    data = shard_of(tmp_path, write_tar, {"a.png": b"\x89PNG", "b.png": b"\x89PNG"})
    with pytest.raises(UserError):
        open_shards(data)


@pytest.mark.parametrize("text", [b"rosa", b"", b"1.5", b"99999999999", b"2147483647", b"-3"])
def test_a_label_that_is_no_class_number_is_named(
    text: bytes, tmp_path: Path, write_tar: Tar, jpeg: Callable[..., bytes]
) -> None:
    data = shard_of(tmp_path, write_tar, {"a.jpg": jpeg(1), "a.cls": text})
    with pytest.raises(UserError, match=r"a\.cls"):
        open_shards(data)


def test_two_photographs_of_one_key_in_a_shard_are_not_merged_in_silence(
    tmp_path: Path, jpeg: Callable[..., bytes], umbel: Callable[..., object]
) -> None:
    import io

    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for seed in (1, 2):
            member = tarfile.TarInfo("a.jpg")
            member.size = len(jpeg(seed))
            tar.addfile(member, io.BytesIO(jpeg(seed)))
    code, _, err = umbel("shards", "check", tmp_path)  # type: ignore[misc]
    assert code == 2, err


def test_other_members_and_folders_are_passed_over(tmp_path: Path, write_tar: Tar, jpeg: Callable[..., bytes]) -> None:
    members = {"a.seg.png": b"1", "a.jpg": jpeg(1), "a.pyd": b"2", "b.JPEG": jpeg(2), "readme": b"x"}
    data = shard_of(tmp_path, write_tar, members)
    assert read_all(data) == [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))]


def test_a_shard_of_one_folder_beside_one_of_another_is_not_called_missing(made_shards: Made) -> None:
    first, _ = made_shards("a"), made_shards("b")
    said = ""
    try:
        open_shards(str(first.parent / "{a,b}" / "train-000000.tar"))
    except UserError as error:
        said = str(error)
    assert "is missing" not in said


def test_long_and_foreign_names_are_read(tmp_path: Path, write_tar: Tar, jpeg: Callable[..., bytes]) -> None:
    members = {f"{'x' * 180}/été 日本.jpg": jpeg(1), "./b.jpg": jpeg(2)}
    found = read_all(shard_of(tmp_path, write_tar, members))
    assert [content for _, content in found] == list(members.values())


def test_a_set_without_samples_is_refused(tmp_path: Path, write_tar: Tar) -> None:
    with pytest.raises(UserError, match="no photographs"):
        open_shards(shard_of(tmp_path, write_tar, {}))


def test_a_folder_that_cannot_be_cached_is_said(
    foreign_shards: Foreign, own_cache: Path, refused: Callable[..., str]
) -> None:
    (own_cache / "umbel").write_text("a file in the way")
    assert "umbel" in refused("shards", "check", foreign_shards())


def test_the_flowers_are_indexed_as_tarfile_reads_them(shared_data: Path, own_cache: Path) -> None:
    path = shared_data / "flowers" / "val-000001.tar"
    expected = [(n, c) for n, c in tar_members([path]) if not n.endswith(".cls")]
    assert sorted(read_all(path)) == sorted(expected)
    shards = open_shards(str(shared_data / "flowers"))
    counts = {split: len(shards.select([split])) for split in ("train", "val", "test", "unlabeled")}
    assert counts == {"train": 1856, "val": 444, "test": 711, "unlabeled": 2529}
    assert len(shards.classes) == 89
    assert np.unique(shards.members["label"]).tolist() == list(range(-1, 89))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("shard", 7, "it gives samples to other shards than they lie in"),
        ("shard", 1, "it gives samples to other shards than they lie in"),
        ("label", 2**31 - 1, "it has labels that lie not between 0 and 9999999"),
        ("label", -2, "it has labels that lie not between 0 and 9999999"),
    ],
)
def test_an_index_of_numbers_that_cannot_be_is_refused(field: str, value: int, words: str, made_shards: Made) -> None:
    folder = made_shards()
    members = np.load(folder / "members.npy")
    members[field][1] = value
    np.save(folder / "members.npy", members)
    with pytest.raises(UserError, match=words):
        open_shards(str(folder))


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("classes",), [["a"]], "its classes are no list of names"),
        (("classes",), "rosa", "its classes are no list of names"),
        (("classes",), None, "its classes are no list of names"),
        (("shards",), 3, "is damaged"),
        (("shards", 0), "train-000000.tar", "is damaged"),
        (("shards", 0, "name"), ["a"], "is not the name of a shard"),
        (("shards", 0, "name"), "train-000001.tar", r"it lists train-000001\.tar twice"),
        (("shards", 0, "split"), "val", r"it gives train-000000\.tar another split"),
        (("shards", 0, "split"), 1, r"it gives train-000000\.tar another split"),
        (("shards", 0, "count"), "3", "a size that is no number"),
        (("shards", 0, "count"), -3, "a size that is no number"),
        (("shards", 0, "count"), 10**30, "a size that is no number"),
        (("shards", 0, "count"), 2**40, "its parts do not fit together"),
        (("shards", 0, "bytes"), 1e4, "a size that is no number"),
        (("shards", 0, "bytes"), 10**30, "a size that is no number"),
        (("shards", 0, "sha256"), 5, "a sum that is no text"),
    ],
)
def test_an_index_of_other_kinds_of_values_is_refused(
    at: tuple[str | int, ...], value: object, words: str, made_shards: Made
) -> None:
    path = made_shards() / "index.json"
    index = inner = json.loads(path.read_text())
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = value
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=words):
        open_shards(str(path.parent))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([b"a", b"b", b"c", b"d", b"rosa_\xe9", b"f"], "the key of sample 4 is not UTF-8"),
        ([b"\xc3", b"\xa9", b"c", b"d", b"e", b"f"], "the key of sample 0 is not UTF-8"),
        ([1, 2, 3, 4, 5, 6], "its parts do not fit together"),
        (["a", "b", "c", "d", "e", "f"], "its parts do not fit together"),
        ([[b"a"]] * 6, "its parts do not fit together"),
    ],
)
def test_keys_that_are_no_text_are_refused(keys: list[object], words: str, made_shards: Made) -> None:
    folder = made_shards()
    np.save(folder / "keys.npy", np.array(keys))
    with pytest.raises(UserError, match=words):
        open_shards(str(folder))


def test_keys_beyond_ascii_are_read(foreign_shards: Foreign, write_tar: Tar, jpeg: Callable[..., bytes]) -> None:
    folder = foreign_shards(shards=1)
    write_tar(folder / "train-000001.tar", {"églantier.jpg": jpeg(1)})
    assert open_shards(str(folder)).key(4) == "églantier"


def test_an_archive_of_arrays_is_no_array(made_shards: Made) -> None:
    folder = made_shards()
    with (folder / "members.npy").open("wb") as file:
        np.savez(file, members=np.zeros(6))
    with pytest.raises(UserError, match=r"members\.npy is missing or no array"):
        open_shards(str(folder))


def test_class_names_in_latin_1_are_said(foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    (folder / "classes.txt").write_bytes("églantier\nsalvia\nviola\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt is not UTF-8 text .*: save it as UTF-8"):
        open_shards(str(folder))


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("rosa\nsalvia\nviola", ("rosa", "salvia", "viola")),
        ("rosa\nsalvia\nviola\n", ("rosa", "salvia", "viola")),
        ("rosa\r\nsalvia\r\nviola\r\n", ("rosa", "salvia", "viola")),
        ("ro\u2028sa\x85\nsal\x0bvia\nviola\n", ("ro\u2028sa\x85", "sal\x0bvia", "viola")),
        ("rosa\n\nviola\n", ("rosa", "", "viola")),
        ("", ()),
    ],
)
def test_a_line_of_the_class_names_is_a_label(content: str, classes: tuple[str, ...], foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    (folder / "classes.txt").write_bytes(content.encode())
    assert open_shards(str(folder)).classes == classes


def test_what_has_a_shards_name_and_is_no_file_is_said(foreign_shards: Foreign) -> None:
    folder = foreign_shards()
    os.mkfifo(folder / "train-000002.tar")
    for data in (folder, folder / "train-{000000..000002}.tar"):
        with pytest.raises(UserError, match=r"train-000002\.tar.* not a file"):
            open_shards(str(data))
    (folder / "train-000002.tar").unlink()
    (folder / "train-000002.tar").mkdir()
    with pytest.raises(UserError, match=r"train-000002\.tar is not a file"):
        open_shards(str(folder))


def test_an_array_of_an_index_that_is_no_file_is_said(made_shards: Made) -> None:
    folder = made_shards()
    (folder / "keys.npy").unlink()
    os.mkfifo(folder / "keys.npy")
    with pytest.raises(UserError, match=r"keys\.npy is missing or no array"):
        open_shards(str(folder))
