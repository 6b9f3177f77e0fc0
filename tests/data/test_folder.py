"""Which file of a folder is of which split and class."""

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.data.folder import read_folder, set_aside
from umbel.data.photograph import find_photographs
from umbel.data.photograph_set import key_of
from umbel.data.scan import SHARD_NAME
from umbel.run import UserError

Photographs = Callable[..., Path]


def labels(folder: Path, split: str = "train") -> dict[str, dict[str, int | None]]:
    """split -> file name -> label."""
    found = read_folder(folder, split)
    return {name: {Path(row.path).name: row.label for row in rows} for name, rows in found.splits.items()}


def test_class_folders_are_numbered_in_alphabetical_order(photographs: Photographs) -> None:
    folder = photographs(["salvia/a.jpg", "rosa/b.jpg", "rosa/c.png"])
    found = read_folder(folder, "train")
    assert found.classes == ("rosa", "salvia")
    assert labels(folder) == {"train": {"b.jpg": 0, "c.png": 0, "a.jpg": 1}}
    assert {row.class_name for row in found.splits["train"]} == {"rosa", "salvia"}


def test_folders_below_a_class_belong_to_it(photographs: Photographs) -> None:
    folder = photographs(["rosa/2021/may/a.jpg", "rosa/b.jpg", "salvia/c.jpg"])
    assert labels(folder) == {"train": {"a.jpg": 0, "b.jpg": 0, "c.jpg": 1}}


def test_a_flat_folder_has_no_labels(photographs: Photographs) -> None:
    folder = photographs(["a.jpg", "b.jpg"])
    assert read_folder(folder, "train").classes == ()
    assert labels(folder, "val") == {"val": {"a.jpg": None, "b.jpg": None}}


def test_the_first_folders_may_name_splits(photographs: Photographs) -> None:
    folder = photographs(
        ["train/rosa/a.jpg", "Validation/rosa/b.jpg", "test/salvia/c.jpg", "unlabelled/d.jpg", "unlabeled/e.jpg"]
    )
    assert labels(folder) == {
        "train": {"a.jpg": 0},
        "val": {"b.jpg": 0},
        "test": {"c.jpg": 1},
        "unlabeled": {"d.jpg": None, "e.jpg": None},
    }


def test_flat_splits_have_no_labels(photographs: Photographs) -> None:
    folder = photographs(["train/a.jpg", "test/b.jpg"])
    assert labels(folder) == {"train": {"a.jpg": None}, "test": {"b.jpg": None}}


def test_a_folder_that_names_no_split_beside_one_that_does_is_refused(photographs: Photographs) -> None:
    folder = photographs(["Train/rosa/a.jpg", "weeds/b.jpg"])
    with pytest.raises(UserError, match="holds Train, the name of a split, beside weeds, which is none"):
        read_folder(folder, "train")


def test_linked_folders_are_followed_and_loops_are_not(photographs: Photographs, tmp_path: Path) -> None:
    folder = photographs(["rosa/a.jpg"])
    elsewhere = photographs(["deep/b.jpg", ".hidden/c.jpg"], "elsewhere")
    (folder / "salvia").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "rosa" / "up").symlink_to("..")
    (folder / "rosa" / "nowhere").symlink_to(tmp_path / "none")
    (folder / "rosa" / "itself.jpg").symlink_to("itself.jpg")
    assert labels(folder) == {"train": {"a.jpg": 0, "b.jpg": 1}}
    assert find_photographs(folder) == [folder / "rosa" / "a.jpg", folder / "salvia" / "deep" / "b.jpg"]


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x85", "\x0c"])
@pytest.mark.parametrize("name", ["ro{}sa", "rosa{}"])
def test_a_class_with_a_line_break_in_its_name_is_refused(name: str, end: str, photographs: Photographs) -> None:
    folder = photographs(["salvia/a.jpg", f"{name.format(end)}/a.jpg"])
    with pytest.raises(UserError, match="line break in its name"):
        read_folder(folder, "train")


def test_a_photograph_beside_class_folders_is_named(photographs: Photographs) -> None:
    folder = photographs(["rosa/a.jpg", "stray.jpg"])
    with pytest.raises(UserError, match=r"stray\.jpg lies beside class folders"):
        read_folder(folder, "train")


def test_hidden_and_other_files_are_passed_over(photographs: Photographs) -> None:
    folder = photographs(["a.jpg", ".b.jpg", ".thumbnails/c.jpg", "__MACOSX/._d.jpg", "notes.txt", "jpg"])
    assert labels(folder) == {"train": {"a.jpg": None}}


def test_a_hidden_folder_above_hides_nothing(photographs: Photographs) -> None:
    assert labels(photographs(["a.jpg"], ".cache/plants")) == {"train": {"a.jpg": None}}


def test_a_folder_named_like_a_photograph_is_none(photographs: Photographs) -> None:
    folder = photographs(["a.jpg"])
    (folder / "album.jpg").mkdir()
    assert labels(folder) == {"train": {"a.jpg": None}}


def test_suffixes_of_any_case_are_photographs(photographs: Photographs) -> None:
    names = ["a.JPG", "b.Jpeg", "c.PNG", "d.tif", "e.TIFF", "f.webp", "g.bmp", "h.gif"]
    assert sorted(labels(photographs(names))["train"]) == names


ODD_NAMES = ["été à l'ombre.jpg", 'say "rosa".jpg', "日本/桜 花.jpg", "a\\b.jpg", "100%.jpg", "-rf.jpg", "{a,b}.jpg"]


def test_odd_names_are_kept_and_their_keys_are_plain(photographs: Photographs) -> None:
    folder = photographs([f"rosa/{name}" for name in ODD_NAMES])
    rows = read_folder(folder, "train").splits["train"]
    assert {row.path for row in rows} == {str(folder / "rosa" / name) for name in ODD_NAMES}
    for row in rows:
        assert row.key.isascii()
        assert row.key.replace("_", "").replace("-", "").isalnum()


def test_a_name_that_is_no_unicode_is_read_too(photographs: Photographs) -> None:
    """Old archives hold Latin-1 names; on Linux a name is bytes."""
    folder = photographs(["a.jpg"])
    (folder / "fleur_\udce9t\udce9.jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert len(labels(folder)["train"]) == 2


def test_keys_tell_equal_names_in_different_folders_apart() -> None:
    files = [Path(name) for name in ("a/x.jpg", "b/x.jpg", "a/x.png", "a/x.y.jpg", "é.jpg", "è.jpg")]
    assert len({key_of(file) for file in files}) == len(files)
    assert all("." not in key_of(file) and len(key_of(file)) < 80 for file in [*files, Path("y" * 250 + ".jpg")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: path.mkdir(), "holds no photographs"),
        (lambda path: (path / "rosa").mkdir(parents=True), "holds no photographs"),
    ],
)
def test_a_folder_without_photographs_is_named(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path / "plants")
    with pytest.raises(UserError, match=rf"plants {words}"):
        read_folder(tmp_path / "plants", "train")


def test_a_folder_of_text_only_holds_no_photographs(photographs: Photographs) -> None:
    with pytest.raises(UserError, match="holds no photographs"):
        read_folder(photographs({"notes.txt": b"hello", "data.csv": b"a,b"}), "train")


def test_the_fingerprint_sees_every_change_but_not_the_place(photographs: Photographs) -> None:
    folder = photographs(["a.jpg", "b.jpg"])
    first = read_folder(folder, "train").fingerprint
    folder.rename(folder.with_name("moved"))
    folder = folder.with_name("moved")
    assert read_folder(folder, "train").fingerprint == first
    (folder / "b.jpg").rename(folder / "c.jpg")
    second = read_folder(folder, "train").fingerprint
    (folder / "a.jpg").write_bytes((folder / "c.jpg").read_bytes())
    assert len({first, second, read_folder(folder, "train").fingerprint}) == 3


def test_no_two_names_of_splits_make_a_bad_shard_name() -> None:
    from umbel.data.folder import SPLIT_FOLDERS

    assert all(SHARD_NAME.fullmatch(f"{split}-000000.tar") for split in SPLIT_FOLDERS.values())


def test_real_photographs_are_found(shared_data: Path) -> None:
    assert len(find_photographs(shared_data / "photos")) == 8


def test_a_share_of_each_class_is_set_aside_by_its_paths(tmp_path: Path) -> None:
    for number in range(23):
        path = tmp_path / ("ash" if number < 20 else "oak") / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    folder = read_folder(tmp_path, "train")
    divided = set_aside(folder, 0.2)
    names = {split: [row.class_name for row in rows] for split, rows in divided.splits.items()}
    assert (names["test"].count("ash"), names["test"].count("oak")) == (4, 1)
    keys = [row.key for rows in divided.splits.values() for row in rows]
    assert sorted(keys) == sorted(row.key for row in folder.splits["train"])
    assert set_aside(read_folder(tmp_path, "train"), 0.2) == divided
    assert set_aside(folder, 0) == folder


def test_a_class_of_one_photograph_keeps_it_for_training(tmp_path: Path) -> None:
    (tmp_path / "ash").mkdir()
    (tmp_path / "ash" / "1.jpg").write_bytes(b"")
    assert set_aside(read_folder(tmp_path, "train"), 0.9).splits["test"] == ()


def test_a_test_split_of_ones_own_is_kept(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "ash").mkdir(parents=True)
        (tmp_path / split / "ash" / "1.jpg").write_bytes(b"")
    folder = read_folder(tmp_path, "train")
    assert set_aside(folder, 0.5) is folder


def test_photographs_without_classes_cannot_be_divided(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="class folders"):
        set_aside(read_folder(tmp_path, "train"), 0.2)
