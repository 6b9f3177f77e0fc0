"""The copy of the code that a job runs from."""

import json
import subprocess
from pathlib import Path

import pytest

from umbel import source_code
from umbel.launch import snapshot


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package under git with a file changed, one added and one ignored, in place of Umbel's own."""
    root = tmp_path / "checkout"
    package = root / "umbel"
    package.mkdir(parents=True)
    for name in ("__init__.py", "source_code.py", "gone.py"):
        (package / name).write_text("first\n")
    (root / ".gitignore").write_text("*.log\n")
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *words], check=True)
    (package / "__init__.py").write_text("changed\n")
    (package / "gone.py").unlink()
    (package / "new.py").write_text("new\n")
    (package / "noise.log").write_text("noise\n")
    monkeypatch.setattr(source_code, "PACKAGE", package)
    monkeypatch.setattr(source_code, "__file__", str(package / "source_code.py"))
    monkeypatch.setattr(snapshot, "PACKAGE", package)
    return package


def test_what_git_tracks_and_what_was_changed_is_copied(checkout: Path, tmp_path: Path) -> None:
    code = snapshot.take(tmp_path / "launch", copy=True)
    copy = code.folder / "umbel"
    assert sorted(path.name for path in copy.iterdir()) == ["__init__.py", "new.py", "source_code.py"]
    assert (copy / "__init__.py").read_text() == "changed\n"
    told = json.loads((code.folder / "code.json").read_text())
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert told["commit"] == code.commit == head.stdout.strip()
    assert "+changed" in told["diff"]
    assert "new: umbel/new.py" in told["diff"]
    assert code.folder == snapshot.place(tmp_path / "launch", copy=True)


def test_edits_reach_another_copy_and_not_the_first(checkout: Path, tmp_path: Path) -> None:
    first = snapshot.take(tmp_path / "launch", copy=True)
    assert snapshot.take(tmp_path / "launch", copy=True) == first
    (checkout / "new.py").write_text("edited\n")
    second = snapshot.take(tmp_path / "launch", copy=True)
    assert second.folder != first.folder
    assert second.diff == first.diff  # a new file is named in the diff, and its content by the snapshot's hash
    assert (first.folder / "umbel" / "new.py").read_text() == "new\n"
    assert (second.folder / "umbel" / "new.py").read_text() == "edited\n"


def test_without_a_copy_the_package_itself_is_named(checkout: Path, tmp_path: Path) -> None:
    code = snapshot.take(tmp_path / "launch", copy=False)
    assert (code.folder, code.snapshot) == (checkout.parent, None)
    assert code.commit is not None
    assert not (tmp_path / "launch").exists()


def test_a_copy_and_an_installed_package_need_no_git(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = snapshot.take(tmp_path / "launch", copy=True)
    monkeypatch.setattr(source_code, "PACKAGE", taken.folder / "umbel")
    found = source_code.source_code()
    assert (found.commit, found.diff_hash, found.digest()) == (taken.commit, taken.diff, taken.snapshot)
    (taken.folder / "code.json").unlink()
    installed = source_code.source_code()
    assert (installed.commit, installed.diff, installed.digest()) == (None, "", taken.snapshot)
