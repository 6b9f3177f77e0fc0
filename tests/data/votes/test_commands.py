"""The commands from end to end: simulate, aggregate, evaluate; what they print, write, refuse and move aside."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from umbel.data.votes import STRATEGIES, aggregate, aggregate_command
from umbel.data.votes.simulate import CrowdConfig, simulate

Umbel = Callable[..., Any]
SMALL = ("--observations", 2000, "--users", 300, "--species", 60, "--experts", 0.01)


@pytest.fixture
def crowd(tmp_path: Path, umbel: Umbel) -> Path:
    ending = umbel("votes", "simulate", "--out", tmp_path / "crowd", *SMALL)
    assert ending.code == 0, ending.err
    assert "of the votes are right" in ending.out
    return tmp_path / "crowd"


def table(path: Path) -> Any:
    return (pyarrow.csv.read_csv if path.suffix == ".csv" else pyarrow.parquet.read_table)(path)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_labels_users_and_shares_are_written_as_found(suffix: str, crowd: Path, umbel: Umbel) -> None:
    out = crowd.parent / "labels"
    ending = umbel("votes", "aggregate", crowd / "votes.parquet", "--out", out, "--format", suffix, "--soft")
    assert ending.code == 0, ending.err
    votes = simulate(CrowdConfig(observations=2000, users=300, species=60, experts=0.01))
    found = aggregate(votes.observation, votes.user, votes.label, authors=votes.author)
    written = {name: table(out / f"{name}.{suffix}") for name in ("labels", "users", "soft")}
    for name in ("observation", "label", "valid", "conf", "acc", "votes", "margin", "tie"):
        np.testing.assert_array_equal(written["labels"][name].to_numpy(), getattr(found, name), err_msg=name)
    for name in ("user", "n_author", "n_vote", "n", "weight", "self_validating"):
        np.testing.assert_array_equal(written["users"][name].to_numpy(), getattr(found, name), err_msg=name)
    soft = written["soft"]
    np.testing.assert_array_equal(soft["observation"].to_numpy(), found.observation[found.share_observation])
    np.testing.assert_array_equal(soft["label"].to_numpy(), found.labels[found.share_label])
    np.testing.assert_array_equal(soft["share"].to_numpy(), found.share)
    assert f"{found.valid.sum():,} of 2,000 observations are valid" in ending.out
    record = json.loads((out / "record.json").read_text())
    assert (record["format"], record["rounds"], record["ending"]) == (1, found.rounds, found.ending)
    assert record["settings"]["strategy"] == "plantnet"


def test_nothing_is_overwritten_without_force(crowd: Path, umbel: Umbel, refused: Any, content: Any) -> None:
    out = crowd.parent / "labels"
    command = ("votes", "aggregate", crowd / "votes.parquet", "--out", out)
    assert umbel(*command).code == 0
    before = content(out)
    assert "is there already: choose another --out, or --force" in refused(*command, "--strategy", "majority")
    assert content(out) == before
    assert umbel(*command, "--strategy", "majority", "--force").code == 0
    assert content(out.with_name("labels.old-1")) == before
    assert json.loads((out / "record.json").read_text())["settings"]["strategy"] == "majority"
    assert "lies in --out" in refused("votes", "aggregate", crowd / "votes.parquet", "--out", crowd, "--force")
    assert "is there already" in refused("votes", "simulate", "--out", crowd, *SMALL)
    for name in ("votes", "truth"):
        assert (crowd / f"{name}.parquet").is_file()
    leftovers = [path.name for path in crowd.parent.iterdir()]
    assert sorted(leftovers) == ["crowd", "labels", "labels.old-1"]


def test_an_empty_folder_may_be_filled(crowd: Path, umbel: Umbel) -> None:
    (crowd.parent / "labels").mkdir()
    assert umbel("votes", "aggregate", crowd / "votes.parquet", "--out", crowd.parent / "labels").code == 0
    assert (crowd.parent / "labels" / "labels.parquet").is_file()


def test_an_interruption_while_writing_leaves_what_was_there(
    crowd: Path, umbel: Umbel, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = crowd.parent / "labels"
    command = ("votes", "aggregate", crowd / "votes.parquet", "--out", out)
    assert umbel(*command).code == 0
    before = content(crowd.parent)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(aggregate_command, "write_table", interrupt)
    assert umbel(*command, "--force").code == 130
    assert content(crowd.parent) == before


def test_a_failure_moves_nothing_aside(crowd: Path, umbel: Umbel, refused: Any, content: Any) -> None:
    out = crowd.parent / "labels"
    command = ("votes", "aggregate", crowd / "votes.parquet", "--out", out)
    assert umbel(*command).code == 0
    before = content(crowd.parent)
    refused(*command, "--force", "--machine.mode", "fixed", "--machine.weight", 3)
    refused(*command, "--force", "--authors", crowd / "absent.csv")
    assert content(crowd.parent) == before


def test_machine_votes_of_the_table_and_of_files_are_the_same(crowd: Path, umbel: Umbel, content: Any) -> None:
    rows = table(crowd / "votes.parquet").select(["observation", "user", "species", "author"])
    pyarrow.parquet.write_table(rows, crowd / "people.parquet")
    told = table(crowd / "votes.parquet").to_pydict()
    for name in ("machine", "score"):
        told_by = dict(zip(map(str, told["observation"]), told[name], strict=True))
        (crowd / f"{name}.json").write_text(json.dumps(told_by))
    settings = ("--machine.mode", "confident", "--machine.threshold", 0.6)
    one = umbel("votes", "aggregate", crowd / "votes.parquet", "--out", crowd / "one", *settings)
    files = ("--machine-votes", crowd / "machine.json", "--machine-scores", crowd / "score.json")
    two = umbel("votes", "aggregate", crowd / "people.parquet", "--out", crowd / "two", *settings, *files)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert "the machine's weight: 1.700." in one.out
    for name in ("labels.parquet", "users.parquet"):
        assert table(crowd / "one" / name).equals(table(crowd / "two" / name))


def test_scores_without_a_machine_are_refused(crowd: Path, refused: Any) -> None:
    (crowd / "people.csv").write_text("observation,user,species\n1,2,3\n")
    (crowd / "scores.json").write_text('{"1": 0.5}')
    sentence = refused(
        "votes", "aggregate", crowd / "people.csv", "--machine-scores", crowd / "scores.json", "--out", crowd / "out"
    )
    assert "--machine-scores needs --machine-votes" in sentence


def test_strategies_are_compared_by_subset(crowd: Path, umbel: Umbel) -> None:
    command = ("votes", "evaluate", crowd / "votes.parquet", "--truth", crowd / "truth.parquet")
    told = json.loads(umbel(*command, "--json", "--strategies", *STRATEGIES).out)
    assert list(told) == ["all", "2 votes or more", "disagreement"]
    assert all(list(rows) == list(STRATEGIES) for rows in told.values())
    assert told["all"]["soft"] == told["all"]["majority"]
    assert told["all"]["plantnet"]["observations"] == 2000
    assert told["all"]["plantnet"]["accuracy_of_valid"] > told["all"]["majority"]["accuracy_of_valid"]
    out = umbel(*command, "--strategies", "majority", "--out", crowd / "evaluation").out
    assert f"{100 * told['all']['majority']['accuracy']:.1f} %" in out
    assert "disagreement (" in out
    record = json.loads((crowd / "evaluation" / "measures.json").read_text())
    assert record["measures"]["all"]["majority"] == told["all"]["majority"]
    with Image.open(crowd / "evaluation" / "pictures.png") as picture:
        assert picture.size == (1500, 460)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("truth.csv", "observation,species\n999999,3\n", "the truth names no observation that has votes"),
        ("truth.csv", "observation,species\n1,3\n1,4\n", "observation 1 has more than one true species"),
        ("truth.txt", "-1\n-1\n", "the truth names no observation that has votes"),
        ("truth.csv", "", "is empty"),
    ],
)
def test_a_truth_that_cannot_be_used_is_named(name: str, content: str, words: str, crowd: Path, refused: Any) -> None:
    (crowd / name).write_text(content)
    sentence = refused(
        "votes", "evaluate", crowd / "votes.parquet", "--truth", crowd / name, "--out", crowd / "evaluation"
    )
    assert words in sentence
    assert not (crowd / "evaluation").exists()


def test_the_real_sample(shared_data: Path, tmp_path: Path, umbel: Umbel) -> None:
    folder = shared_data / "crowdswe_sample"
    answers, more = folder / "answers" / "answers.json", folder / "aggregation"
    files = ("--authors", more / "authors.txt", "--machine-votes", more / "ai_answers.json")
    files += ("--machine-scores", more / "ai_scores.json")
    for mode in ("ignored", "user", "fixed", "invalidating", "confident"):
        ending = umbel("votes", "aggregate", answers, *files, "--machine.mode", mode, "--out", tmp_path / mode)
        assert ending.code == 0, ending.err
        assert "1,749 votes of 1,627 users on 1,625 observations" in ending.out
    labels = table(tmp_path / "ignored" / "labels.parquet").to_pydict()
    told = json.loads(answers.read_text())
    alone = {i: next(iter(cast.values())) for i, cast in told.items() if len(cast) == 1}
    assert len(alone) == 1513
    by_observation = dict(zip(map(str, labels["observation"]), labels["label"], strict=True))
    assert all(by_observation[i] == species for i, species in alone.items())
    truth = folder / "answers" / "ground_truth.txt"
    ending = umbel("votes", "evaluate", answers, *files[:2], "--truth", truth)
    known = [number for number, line in enumerate(truth.read_text().split()) if line != "-1"]
    assert ending.code == 0, ending.err
    assert f"all ({sum(str(number) in told for number in known)} observations)" in ending.out


def test_a_bad_setting_is_a_sentence(crowd: Path, refused: Any) -> None:
    command = ("votes", "aggregate", crowd / "votes.parquet", "--out", crowd / "out")
    for flags, words in (
        (("--plantnet.theta-acc", 2), "plantnet.theta_acc must lie between 0 and 1"),
        (("--machine.mode", "fixed", "--machine.weight", 2.5), "machine.weight must lie between 0.857 and 2"),
        (("--machine.mode", "fixed", "--strategy", "majority"), "ignore the machine or let it vote as a user"),
        (("--seed", -1), "seed must not be negative"),
    ):
        assert words in refused(*command, *flags)


def test_the_commands_start_without_torch() -> None:
    code = (
        "import sys; import umbel.data.votes.aggregate_command, umbel.data.votes.evaluate_command, "
        "umbel.data.votes.simulate_command; "
        "print(sorted({'torch', 'timm', 'kornia', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_arrays_of_numbers_need_numpy_alone() -> None:
    code = "import sys; from umbel.data.votes import aggregate; print(sorted({'pyarrow', 'ijson'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
