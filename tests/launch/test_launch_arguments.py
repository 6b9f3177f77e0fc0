"""Words of launching among a command's own, and the site's settings under them."""

from pathlib import Path

import pytest

from umbel.launch.launch_arguments import cut, parse
from umbel.launch.launch_config import LaunchConfig
from umbel.run import UserError


def test_words_of_launching_are_cut_out_wherever_they_stand() -> None:
    words = ["--launch", "slurm", "data", "--launch.nodes=2", "--out", "run", "--launch.dry-run", "--launched", "x"]
    own, launching = cut(words)
    assert own == ["data", "--out", "run", "--launched", "x"]
    assert launching == ["--launch.where", "slurm", "--launch.nodes=2", "--launch.dry-run"]
    assert cut(["--launch.no-snapshot", "data"]) == (["data"], ["--launch.no-snapshot"])


@pytest.mark.parametrize("words", [["--launch"], ["--launch.nodes", "--out", "run"]])
def test_a_flag_without_its_value(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^--launch(\.nodes)? needs a value\.$"):
        cut(words)


def test_flags_stand_over_the_site_and_add_to_its_lists(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("format: 1\npartition: gpu\ngpus: 4\nhours: 20\nsetup: [module load cuda]\nsbatch: [exclusive]\n")
    words = ["--launch", "slurm", "--launch.site", str(site), "--launch.hours", "3"]
    words += ["--launch.setup", "export A=1", "--launch.setup", "export B=2"]
    asked = parse(cut(words)[1], "umbel pretrain")
    assert (asked.where, asked.partition, asked.gpus, asked.hours) == ("slurm", "gpu", 4, 3.0)
    assert asked.setup == ("module load cuda", "export A=1", "export B=2")
    assert asked.sbatch == ("exclusive",)
    assert (asked.tasks, asked.ranks) == (4, 4)


def test_without_a_site_lists_hold_each_value_once() -> None:
    asked = parse(cut(["--launch", "slurm", "--launch.sbatch", "exclusive", "--launch.sbatch", "nice=5"])[1], "umbel")
    assert asked.sbatch == ("exclusive", "nice=5")
    assert parse([], "umbel") == LaunchConfig()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("format: 1\npartitoin: gpu\n", "unknown key 'partitoin', did you mean 'partition'?"),
        ("partition: gpu\n", "must be a mapping of settings that says 'format: 1'"),
        ("format: 2\n", "must be a mapping of settings that says 'format: 1'"),
        ("format: 1\nsite: other.yaml\n", "names another site"),
        ("format: 1\nhours: many\n", "hours must be of type float, not 'many'"),
        ("format: [\n", "is not valid YAML"),
        ("format: 1\nhours: 24:00\n", "hours must be of type float, not '24:00'."),
        ("format: 1\nhours: 3\nhours: 4\n", "key 'hours' is given twice"),
        ("format: 1\nhours: .inf\n", "launch.hours must be above 0, not inf"),
        ("format: 1\nsetup: module load cuda\n", "setup must be a list, not 'module load cuda'."),
        ("format: 1\nsetup: ['a\n\n  b']\n", "launch.setup must be one line without control characters, not 'a\\nb'"),
    ],
)
def test_a_wrong_site(content: str, sentence: str, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(content)
    with pytest.raises(UserError) as error:
        parse(["--launch.where", "slurm", "--launch.site", str(site)], "umbel pretrain")
    assert sentence in str(error.value)
    assert str(site) in str(error.value)


def test_a_site_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read \(No such file or directory\)\.$"):
        parse(["--launch.site", str(tmp_path / "nowhere.yaml")], "umbel pretrain")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--launch slrm", "slrm"),
        ("--launch slurm --launch.nods 2", "--launch.nods"),
        ("--launch slurm --launch.nodes 0", "launch.nodes must be at least 1, not 0"),
        ("--launch slurm --launch.hours 0", "launch.hours must be above 0, not 0"),
        ("--launch slurm --launch.gpus 2 --launch.processes 2", "launch.gpus 2 sets the processes"),
        ("--launch slurm --launch.sbatch=--exclusive", "launch.sbatch must be NAME=VALUE without dashes"),
        (
            "--launch slurm --launch.hours 0.1 --launch.signal-delay 360",
            "launch.signal_delay 360 (seconds) must be less",
        ),
        ("--launch.nodes 2", "need --launch local or slurm"),
        ("--launch.dry-run", "need --launch local or slurm"),
    ],
)
def test_wrong_settings_are_named(words: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse(cut(words.split())[1], "umbel pretrain")
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", ["comment", "partition", "account", "constraint", "prefix", "setup", "sbatch"])
@pytest.mark.parametrize("text", ["a\nb", "a\x1bb"])
def test_what_stands_in_a_script_is_one_line(name: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        parse(["--launch.where", "slurm", f"--launch.{name}", text], "umbel pretrain")
    assert f"launch.{name} must be one line without control characters, not {text!r}" in str(error.value)


def test_a_signal_may_come_just_after_the_start() -> None:
    assert LaunchConfig(hours=0.1, signal_delay=359).minutes == 6
