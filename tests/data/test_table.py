"""CSV files of the user's: what is read, and what is wrong with those that are not."""

from pathlib import Path

import pytest

from umbel.data.table import read_table
from umbel.run import UserError


def table(tmp_path: Path, content: str | bytes, name: str = "a.csv", **settings: bool) -> list[dict[str, str]]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_table(path, needed=("path",), **settings))


def test_quotes_blanks_empty_lines_and_marks_of_order_are_read(tmp_path: Path) -> None:
    text = '\ufeffpath , note\r\n"a, b.jpg","say ""é"""\r\n\r\n c.jpg ,\r\n'
    assert table(tmp_path, text) == [{"path": "a, b.jpg", "note": 'say "é"'}, {"path": "c.jpg", "note": ""}]


def test_tabs_by_suffix_or_by_word(tmp_path: Path) -> None:
    rows = [{"path": "a,b", "note": "c"}]
    assert table(tmp_path, "path\tnote\na,b\tc\n", "a.tsv") == rows
    assert table(tmp_path, "path\tnote\na,b\tc\n", tabs=True) == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no column 'path'; it has: nothing"),
        ("file,label\n", "has no column 'path'; it has: file, label"),
        ("path,x,x\n", "has a column twice"),
        ("path,x\na,1\nb\n", "line 3: it has 1 values, where its head has 2"),
        ("path,x\na,1,2\n", "line 2: it has 3 values"),
        (b"path\n\xff\xfe\n", "is not text in UTF-8"),
        ('path\n"a', "is not a CSV file"),
        ("path\n" + "a" * 200_000 + "\n", "is not a CSV file"),
    ],
)
def test_what_is_wrong_is_told(content: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        table(tmp_path, content)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        list(read_table(tmp_path / "a.csv", needed=()))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_table(tmp_path, needed=()))
