"""Votes in every format, streamed in parts, real ones, and files that are cut off, empty, or hold something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from umbel.data.votes import crowdswe
from umbel.data.votes.read import encode_table, read_by_observation, read_votes
from umbel.run import UserError

ROWS: list[dict[str, Any]] = [
    {"observation": "o1", "user": "ann", "species": "Rosa canina L.", "author": "ann", "machine": None, "score": None},
    {"observation": "o1", "user": "bob", "species": "Rosa", "author": None, "machine": None, "score": None},
    {"observation": "o2", "user": "ann", "species": "Mentha × piperita, L.", "author": "cid", "machine": "Rosa",
     "score": 0.25},
    {"observation": "o3", "user": "bob", "species": "Rosa", "author": None, "machine": "Thymus", "score": 0.5},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], **extra: Any) -> Path:
    """The rows in the format of the suffix; `extra` columns are added."""
    table = pa.Table.from_pylist([row | extra for row in rows])
    match path.suffix:
        case ".parquet":
            pa.parquet.write_table(table, path)
        case ".csv":
            pa.csv.write_csv(table, path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row | extra, ensure_ascii=False) + "\n" for row in rows))
        case _:
            told: dict[str, dict[str, Any]] = {}
            for row in rows:
                told.setdefault(str(row["observation"]), {})[str(row["user"])] = row["species"]
            path.write_text(json.dumps(told))
    return path


every_format = pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "json"])
tables = pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])


@every_format
def test_the_same_votes_in_every_format(suffix: str, tmp_path: Path) -> None:
    table = read_votes(write(tmp_path / f"votes.{suffix}", ROWS, remark="unused"))
    for name, column in (("observation", table.observations), ("user", table.users), ("species", table.labels)):
        assert column.to_pylist() == [row[name] for row in ROWS]


@tables
def test_authors_and_machine_among_the_votes(suffix: str, tmp_path: Path) -> None:
    votes, machine = encode_table(read_votes(write(tmp_path / f"votes.{suffix}", ROWS)))
    assert votes.author.tolist() == [0, -1, -1]  # cid never voted
    assert machine is not None
    assert machine.observations.tolist() == ["o2", "o3"]
    assert machine.labels.to_pylist() == ["Rosa", "Thymus"]
    assert machine.scores.tolist() == [0.25, 0.5]


def test_columns_that_the_first_records_lack_are_found_in_later_ones(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if v is not None} for row in [ROWS[3], *ROWS[:2]]]
    rows[0].pop("machine")
    (tmp_path / "votes.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    table = read_votes(tmp_path / "votes.jsonl")
    assert table.authors is not None
    assert table.authors.to_pylist() == [None, "ann", None]
    assert table.machine is None


@every_format
def test_whole_numbers_are_numbers_in_every_format(suffix: str, tmp_path: Path) -> None:
    rows = [{"observation": i, "user": 100 + i, "species": 2 * i} for i in (10, 9, 8)]
    for number, kind in enumerate((int, str)):
        path = write(tmp_path / f"{number}.{suffix}", [{k: kind(v) for k, v in row.items()} for row in rows])
        votes, _ = encode_table(read_votes(path))
        assert votes.observations.tolist() == [8, 9, 10]
        assert votes.labels.tolist() == [16, 18, 20]


def test_dictionary_columns_and_large_text_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "observation": pa.array(["a", "b"], pa.large_string()),
            "user": pa.array(["u", "u"]).dictionary_encode(),
            "species": pa.array([3, 4], pa.uint16()),
        }
    )
    pa.parquet.write_table(table, tmp_path / "votes.parquet")
    votes, _ = encode_table(read_votes(tmp_path / "votes.parquet"))
    assert (votes.observations.tolist(), votes.users.tolist(), votes.labels.tolist()) == (["a", "b"], ["u"], [3, 4])


def test_a_stream_is_read_in_parts_without_losing_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowdswe, "BATCH", 7)
    monkeypatch.setattr(crowdswe, "BUFFER", 16)
    told = {f"o{i}": {f"u{j}": f"k{i + j}" for j in range(i % 4)} for i in range(50)}
    (tmp_path / "answers.json").write_text(json.dumps(told))
    table = read_votes(tmp_path / "answers.json")
    rows = zip(*(c.to_pylist() for c in (table.observations, table.users, table.labels)), strict=True)
    assert list(rows) == [(i, j, k) for i, votes in told.items() for j, k in votes.items()]


def test_a_score_that_one_row_of_an_observation_tells_is_enough(tmp_path: Path) -> None:
    lines = ["observation,user,species,machine,score", "1,1,5,5,0.9", "1,2,5,,", "2,1,5,6,"]
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    _, machine = encode_table(read_votes(tmp_path / "votes.csv"))
    assert machine is not None
    assert machine.labels.to_pylist() == [5, 6]
    assert machine.scores.tolist() == pytest.approx([0.9, float("nan")], nan_ok=True)


def test_a_user_given_twice_keeps_both_votes_until_they_are_settled(tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('{"1": {"5": 1, "6": 2, "5": 3}, "2": {}}')
    table = read_votes(tmp_path / "answers.json")
    assert table.labels.to_pylist() == [1, 2, 3]
    for repeated, label in (("last", 3), ("first", 1)):
        votes, _ = encode_table(table, repeated=repeated)  # type: ignore[arg-type]
        assert votes.labels[votes.label].tolist() == [label, 2]
        assert votes.counts["repeated votes of a user on an observation"] == 1


GOOD = '{"1": {"5": 1}, "2": {"5": 2}}'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "", "is empty"),
        ("a.json", "{}", "there are no votes"),
        ("a.json", GOOD[:20], "is cut off or not JSON"),
        ("a.json", GOOD[:-1], "is cut off or not JSON"),
        ("a.json", "votes", "not JSON"),
        ("a.json", "[1, 2]", "but its top level holds a list"),
        ("a.json", "5", "but its top level holds 5"),
        ("a.json", '{"1": 5}', "observation 1 holds 5"),
        ("a.json", '{"1": {"5": null}}', "observation 1 holds null"),
        ("a.json", '{"1": {"5": [1]}}', "observation 1 holds a list"),
        ("a.json", '{"1": {"5": {"6": 7}}}', "observation 1 holds an object"),
        ("a.json", '{"1": {"5": true}}', "observation 1 holds True"),
        ("a.json", '{"1": {"5": 1, "6": "rosa"}}', "cannot be read"),
        ("a.json", '{"1": {"5": 1.5}}', "must be whole numbers or text"),
        ("a.json", '{"-1": {"5": 1}}', "observation ids must not be negative, but -1 is there"),
        ("a.json", '{"1": {"-5": 1}}', "user ids must not be negative, but -5 is there"),
        ("a.json", '{"1": {"5": -1}}', "species ids must not be negative, but -1 is there"),
        ("a.csv", "", "is empty"),
        ("a.csv", "observation,user,species\n", "there are no votes"),
        ("a.csv", "observation,user,specie\n1,2,3\n", "has no column 'species', did you mean 'specie'?"),
        ("a.csv", "observation,user,species\n1,2\n", "Expected 3 columns, got 2"),
        ("a.csv", "observation,user,species\n1,,3\n", "1 user ids are missing"),
        ("a.csv", "observation,user,species\n1,2,-3\n", "species ids must not be negative, but -3 is there"),
        ("a.csv", "observation,user,species,author\n1,2,3,4\n1,5,3,6\n", "observation 1 name more than one author"),
        ("a.csv", "observation,user,species,machine\n1,2,3,4\n1,5,3,6\n", "name more than one machine's species"),
        ("a.csv", "observation,user,species,score\n1,2,3,high\n", "conversion error to double"),
        ("a.csv", b"observation,user,species\n1,2,\xff\xfe\n", "invalid UTF8"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"observation": 1, "user": 2, "species": 3}\n{"observation": 1, "us', "cannot be read"),
        ("a.jsonl", '{"observation": 1, "user": 2, "species": 3}\n{"observation": 1, "user": 4}', "are missing"),
        ("a.jsonl", '{"observation": 1, "user": 2, "species": 3}\n{"observation": "b"}\n', "cannot be read"),
        ("a.jsonl", '{"observation": 1, "user": 2}\n', "has no column 'species'; there are: observation, user"),
        ("a.jsonl", '{"observation": 1.5, "user": 2, "species": 3}\n', "observation must be text or a whole number"),
        ("a.jsonl", "[1, 2, 3]\n", "must hold a JSON object a line, not list"),
        ("a.jsonl", "votes\n", "line 1 is not JSON"),
        ("a.parquet", "PAR1 and no more", "cannot be read"),
        ("a.xlsx", "votes", "must end in one of .parquet, .csv, .jsonl"),
        ("a.csv", None, "there is no such file"),
        ("a.json", None, "there is no such file"),
        ("a.parquet", None, "there is no such file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_answered_in_a_sentence(
    name: str, content: str | bytes | None, words: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refused("votes", "aggregate", path, "--out", tmp_path / "out", "--machine.mode", "user")
    assert words in sentence
    assert str(path) in sentence
    assert not (tmp_path / "out").exists()


def test_a_parquet_column_of_a_wrong_kind_is_named(tmp_path: Path) -> None:
    table = pa.table({"observation": [1], "user": [[1]], "species": [2]})
    pa.parquet.write_table(table, tmp_path / "votes.parquet")
    with pytest.raises(UserError, match="column 'user' must hold whole numbers or text, not list"):
        read_votes(tmp_path / "votes.parquet")


def test_a_folder_is_no_file_of_votes(tmp_path: Path) -> None:
    for suffix in ("json", "csv", "parquet"):
        (tmp_path / f"votes.{suffix}").mkdir()
        with pytest.raises(UserError, match="is a folder, not a file"):
            read_votes(tmp_path / f"votes.{suffix}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "7\n-1\n9\n"),
        ("a.json", '{"0": 7, "2": 9}'),
        ("a.csv", "observation,author\n0,7\n1,\n2,9\n"),
        ("a.jsonl", '{"observation": 0, "author": 7}\n{"observation": 2, "author": 9}\n'),
    ],
)
def test_what_is_told_by_observation_in_every_format(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    observations, authors = read_by_observation(tmp_path / name, "author")
    told = dict(zip(observations.to_pylist(), authors.to_pylist(), strict=True))
    assert {i: author for i, author in told.items() if author is not None} == {0: 7, 2: 9}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "1\n\n2\n", "line 2 is empty"),
        ("a.txt", b"\xff\n", "cannot be read"),
        ("a.json", '{"1": {"2": 3}}', "observation 1 holds an object"),
        ("a.json", '{"1": 2', "is cut off or not JSON"),
        ("a.json", '{"1": "high"}', "cannot be read"),
        ("a.csv", "observation,scor\n1,2\n", "did you mean 'scor'?"),
    ],
)
def test_bad_files_by_observation_are_named(name: str, content: str | bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_by_observation(tmp_path / name, "score")
    assert words in str(error.value)


def test_the_real_sample(shared_data: Path) -> None:
    folder = shared_data / "crowdswe_sample"
    told = json.loads((folder / "answers" / "answers.json").read_text())
    table = read_votes(folder / "answers" / "answers.json")
    authors = read_by_observation(folder / "aggregation" / "authors.txt", "author")
    votes, machine = encode_table(table, authors=authors)
    assert machine is None
    assert len(votes) == sum(map(len, told.values())) == 1749
    assert votes.observations.tolist() == sorted(map(int, told))
    assert votes.users.tolist() == sorted({int(user) for cast in told.values() for user in cast})
    names = votes.users[votes.author]
    lines = (folder / "aggregation" / "authors.txt").read_text().split()
    assert names.tolist() == [int(lines[i]) for i in votes.observations]
    scores = read_by_observation(folder / "aggregation" / "ai_scores.json", "score")
    assert dict(zip(map(str, scores[0].to_pylist()), scores[1].to_pylist(), strict=True)) == json.loads(
        (folder / "aggregation" / "ai_scores.json").read_text()
    )
