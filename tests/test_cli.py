"""The command's surface: names, options and help are pinned here, so that they change on purpose only."""

import ast
import contextlib
import errno
import importlib
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel import __version__, cli
from umbel.launch.launch_config import LaunchConfig
from umbel.run import Stopped, TrainingError, UserError

PRETRAIN = """
    --out --recipe --init --seed --device --force --no-force
    --backbone.name --backbone.width --backbone.depth --backbone.heads --backbone.patch --backbone.registers
    --backbone.layer-scale
    --head.hidden --head.width
    --masks.views --masks.ratio --masks.smallest-block --masks.aspect
    --loss.eps --loss.coeff --loss.center-with-teacher --loss.no-center-with-teacher --loss.patch-weight
    --loss.covariance
    --optim.learning-rate --optim.floor --optim.warmup-epochs --optim.weight-decay --optim.teacher-momentum
    --optim.layer-decay --optim.patch-embed-multiplier --optim.clip --optim.drop-path --optim.betas
    --reader.canvas --reader.window --reader.workers --reader.max-bad
    --reader.unreadable-shards --reader.timeout --reader.cache-gib --reader.allow-pipe --reader.no-allow-pipe
    --mix.data --mix.weights --mix.epoch
    --train.batch --train.accumulation --train.epochs --train.precision --train.activation-checkpointing
    --train.no-activation-checkpointing --train.compile --train.timeout --train.log-every --train.save-every
    --train.save-minutes
    --train.keep-last --train.keep-every
    --probe.data --probe.every-epochs --probe.shots --probe.draws --probe.limit
"""
VIEWS = """
    --views.global-size --views.local-size --views.local-views --views.global-area --views.local-area --views.aspect
    --views.flip --views.policy
"""
PHOTOGRAPHS = """
    --out --quality --shard-size --seed --workers --force --no-force --shorter-side --longer-side --max-bad --labels
"""
VOTES = """
    --authors --machine-votes --machine-scores --repeated --ties --seed
    --machine.mode --machine.weight --machine.threshold --machine.any-weight --machine.no-any-weight
    --plantnet.theta-conf --plantnet.theta-acc --plantnet.alpha --plantnet.beta --plantnet.gamma --plantnet.rounds
"""
LAUNCH = """
    --launch.where --launch.nodes --launch.gpus --launch.processes --launch.cpus --launch.memory --launch.hours
    --launch.partition --launch.account --launch.qos --launch.constraint --launch.exclude --launch.comment
    --launch.signal-delay --launch.setup --launch.prefix --launch.python --launch.sbatch --launch.site
    --launch.dry-run --launch.no-dry-run --launch.requeues --launch.snapshot --launch.no-snapshot
"""
FIT = """
    --views.size --views.area --views.aspect --views.flip --views.policy
    --mix.mixup --mix.cutmix --mix.mixup-alpha --mix.cutmix-alpha
    --optim.learning-rate --optim.floor --optim.warmup --optim.weight-decay --optim.layer-decay --optim.clip
    --optim.betas
    --reader.canvas --reader.window --reader.workers --reader.max-bad
    --reader.unreadable-shards --reader.timeout --reader.cache-gib --reader.allow-pipe --reader.no-allow-pipe
    --train.batch --train.accumulation --train.epochs --train.precision --train.average --train.validate-epochs
    --train.patience --train.timeout --train.log-every --train.save-every --train.save-minutes --train.keep-last
"""
OPTIONS = {
    "shards make folder": "--split --test-share" + PHOTOGRAPHS,
    "shards make csv": "--split" + PHOTOGRAPHS,
    "shards make inat2021": "--images --split --taxon --keep-location --no-keep-location" + PHOTOGRAPHS,
    "shards make plantnet300k": PHOTOGRAPHS,
    "shards make meta-album": "--split" + PHOTOGRAPHS,
    "shards make flowers102": "--download --no-download" + PHOTOGRAPHS,
    "shards make inaturalist": "--version --taxon --download --no-download" + PHOTOGRAPHS,
    "shards make synthetic": """
        --out --train --test --size --quality --shard-size --seed --workers --force --no-force""",
    "shards check": "--against --distance --out --workers",
    "shards show": "--out --classes --columns --sample --seed --json --no-json",
    "votes aggregate": """
        --out --strategy --format --soft --no-soft --force --no-force"""
    + VOTES,
    "votes evaluate": """
        --truth --strategies --out --json --no-json --force --no-force"""
    + VOTES,
    "votes simulate": """
        --out --format --force --no-force --observations --users --species --extra-votes --experts --spammers
        --colluders --group --seed""",
    "demo": """
        --out --data --recipe --epochs --shots --seed --device --force --no-force""",
    "views": "--out --recipe --count --seed --policies" + VIEWS,
    "pretrain": PRETRAIN + VIEWS,
    "finetune": """
        --data --out --recipe --seed --device --force --no-force --head --held-out
        --labels.weight --labels.soft --labels.smoothing --labels.balance"""
    + FIT,
    "distill": """
        --student --data --out --recipe --init --photographs --seed --device --force --no-force
        --backbone.width --backbone.depth --backbone.heads --backbone.patch --backbone.registers --backbone.layer-scale
        --labels.weight --labels.soft --labels.smoothing --labels.balance
        --loss.teach --loss.no-teach --loss.pooled --loss.patches --loss.relational --loss.logits --loss.dist
        --loss.labels --loss.temperature --loss.standardize-logits --loss.no-standardize-logits
        --loss.relational-temperature --loss.queue --loss.projector"""
    + FIT,
    "embed": """
        --tokens --image-size --protocol --data --out --splits --batch --part --device --workers --force
        --no-force""",
    "probe": """
        --tokens --image-size --protocol --data --against --probes --shots --draws --knn --episodes --ways --seed
        --baselines --no-baselines --suite --suite-data --sensitivity --no-sensitivity --sensitivity-photographs
        --efficiency --no-efficiency --json --no-json --out --batch --device --workers""",
    "hash fit": """
        --out --data --bits --method --supervised --no-supervised --label-fields --pairs --texts --seed --device
        --force --no-force
        --crovca.size --crovca.affine --crovca.no-affine --crovca.epochs --crovca.least-steps --crovca.batch
        --crovca.learning-rate --crovca.floor
        --crovca.weight-decay --crovca.views --crovca.eps --crovca.weight --crovca.memory --photographs.rounds
        --photographs.area --photographs.policy --photographs.canvas --photographs.batch --photographs.workers
        --lora.rank --lora.dropout --lora.learning-rate""",
    "hash encode": """
        --data --backbone --batch --part --device --workers --embeddings --out --index --force --no-force""",
    "hash search": """
        --key --photo --text --keys-from --top --rerank --shortlist --exact --no-exact --backbone --coder
        --embeddings --json --no-json""",
    "hash evaluate": """
        --k --denominator --bits --baselines --seed --out --json --no-json""",
    "hash serve": "--port --host --top --data --backbone --coder --exact --no-exact",
    "report": """
        --out --data""",
    "import": "--heads --statistics --force --no-force",
    "export": "--out --force --no-force --to --data --int8 --no-int8 --per-class --workers",
    "predict": "--json --no-json",
    "pipeline": "--out --data --seed --device --wait --no-wait --dry-run --no-dry-run --force --no-force",
    "sweep": """
        --over --data --out --seeds --probe --teacher --device --at-once --wait --no-wait --dry-run --no-dry-run --force
        --no-force""",
    "jobs": "--json --no-json",
    "doctor": "--json --no-json",
}
LONG = (
    *(f"shards make {name}" for name in ("folder", "csv", "inat2021", "plantnet300k", "meta-album", "flowers102")),
    *("shards make inaturalist", "shards make synthetic", "shards check", "demo", "pretrain", "finetune", "distill"),
    *("embed", "probe"),
    *("hash fit", "hash encode", "hash evaluate", "export"),
)
every_command = pytest.mark.parametrize("name", OPTIONS)
CHECKOUT = Path(__file__).parents[1]


def plain(text: str) -> str:
    """Help without colors and frames."""
    return re.sub(r"[│╭╮╰╯─]", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


def shown(text: str) -> str:
    """Help as one line of words."""
    return " ".join(plain(text).split())


def configuration(name: str) -> type:
    module, function = cli.COMMANDS[name][0].split(":")
    return typing.get_type_hints(getattr(importlib.import_module(module), function))["config"]


def words_of_help(kind: type) -> dict[str, str]:
    """The docstring under every field, with those of its bases and of settings inside settings."""
    found: dict[str, str] = {}
    for base in kind.__bases__:
        found |= words_of_help(base) if hasattr(base, "__dataclass_fields__") else {}
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    hints = typing.get_type_hints(kind)
    for entry, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(entry, ast.AnnAssign):
            continue
        name = ast.unparse(entry.target)
        inner = hints[name]
        if isinstance(inner, type) and hasattr(inner, "__dataclass_fields__"):
            found |= {f"{name}.{field}": words for field, words in words_of_help(inner).items()}
        else:
            assert isinstance(following, ast.Expr), f"{kind.__name__}.{name} has no docstring"
            found[name] = str(ast.literal_eval(following.value))
    return found


def test_the_commands_are_these() -> None:
    assert list(cli.COMMANDS) == list(OPTIONS)


@every_command
def test_a_commands_options_are_these(name: str, umbel: Callable[..., Any]) -> None:
    code, out, err = umbel(*name.split(), "--help")
    assert (code, err) == (0, "")
    listed = [line for line in plain(out).splitlines() if re.match(r"\W{0,2}(-h, )?--", line)]
    found = {word for line in listed for word in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", line)}
    launching = LAUNCH.split() if name in (*LONG, *cli.SENDERS) else []
    assert found - {"--help"} == {*OPTIONS[name].split(), *launching}


@every_command
def test_help_says_what_every_option_does(name: str, umbel: Callable[..., Any]) -> None:
    text = shown(umbel(*name.split(), "--help").out)
    assert text.startswith(f"usage: umbel {name} ")
    assert cli.COMMANDS[name][1] in text
    for words in words_of_help(configuration(name)).values():
        assert " ".join(words.split()).rstrip(".") in text


@pytest.mark.parametrize("flags", [[], ["--help"], ["-h"]])
def test_the_list_of_commands(flags: list[str], umbel: Callable[..., Any]) -> None:
    code, out, err = umbel(*flags)
    assert (code, err) == (0, "")
    for name, (_, words) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(words)}$", out, re.MULTILINE)


def test_long_commands_say_how_they_are_launched(umbel: Callable[..., Any]) -> None:
    assert set(cli.LONG) == set(LONG) <= set(OPTIONS)
    text = shown(umbel("hash", "encode", "--help").out)
    for words in words_of_help(LaunchConfig).values():
        assert " ".join(words.split()).rstrip(".") in text
    assert "--launch." not in umbel("hash", "search", "--help").out


def test_the_list_of_commands_needs_no_heavy_library() -> None:
    code = (
        "import sys; from umbel.cli import main; assert main(['--help']) == 0; "
        "heavy = {'torch', 'numpy', 'timm', 'torchvision', 'kornia', 'PIL', 'tyro', 'yaml', 'webdataset'}; "
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, umbel: Callable[..., Any]) -> None:
    assert umbel(flag) == (0, f"umbel {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("prtrain data", "umbel: 'prtrain data' is not a command, did you mean 'pretrain'?"),
        ("shards chek", "umbel: 'shards chek' is not a command, did you mean 'shards check'?"),
        ("zzzzzz", "umbel: 'zzzzzz' is not a command; `umbel --help` lists the commands."),
        (
            "shards",
            "umbel: 'shards' is not a whole command; there are: shards make folder, shards make csv, "
            "shards make inat2021, shards make plantnet300k, shards make meta-album, shards make flowers102, "
            "shards make inaturalist, shards make synthetic, shards check, shards show.",
        ),
        (
            "shards make",
            "umbel: 'shards make' is not a whole command; there are: shards make folder, shards make csv, "
            "shards make inat2021, shards make plantnet300k, shards make meta-album, shards make flowers102, "
            "shards make inaturalist, shards make synthetic.",
        ),
    ],
)
def test_what_is_no_command_is_answered_in_a_sentence(words: str, sentence: str, umbel: Callable[..., Any]) -> None:
    assert umbel(*words.split()) == (2, "", f"{sentence}\n")


def test_the_nearest_command_is_found_behind_a_long_line(umbel: Callable[..., Any]) -> None:
    code, _, err = umbel("pretain", "photographs", "--out", "runs/one", "--recipe", "demo")
    assert code == 2
    assert "did you mean 'pretrain'?" in err


def test_that_nobody_reads_on_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "umbel", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [["--verbose"], ["--out", "x"], [""]])
def test_flags_without_a_command_are_named(words: list[str], umbel: Callable[..., Any]) -> None:
    code, _, err = umbel(*words)
    assert code == 2
    assert "''" not in err
    assert "umbel --help" in err


@pytest.mark.parametrize(("prefix", "count"), [("shards", 10), ("shards make", 8)])
def test_help_of_a_family_lists_it_alone(prefix: str, count: int, umbel: Callable[..., Any]) -> None:
    code, out, _ = umbel(*prefix.split(), "--help")
    assert code == 0
    assert sum(line.startswith("  ") for line in out.splitlines()) == count


@every_command
def test_a_flag_that_does_not_exist_is_refused(name: str, umbel: Callable[..., Any]) -> None:
    code, out, err = umbel(*name.split(), "--no-such-flag")
    assert (code, out) == (2, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "d", "--out", "r", "--recipe", "demo", "--train.batc", "3"], "--train.batch"),
        (["pretrain", "d", "--out", "r", "--recipe", "demo", "--train.batch", "many"], "many"),
        (["pretrain", "d", "--out", "r", "--recipe", "demo", "--device", "tpu"], "tpu"),
        (["pretrain", "d", "--recipe", "demo"], "--out"),
        (["pretrain", "--out", "r"], "required"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    arguments: list[str], words: str, umbel: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = umbel(*arguments)
    assert code == 2
    assert words in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--train.batch", "0", "train.batch must be at least 1, not 0"),
        ("--reader.canvas", "2", "reader.canvas must be at least 16, not 2"),
        ("--views.policy", "weird", "views.policy must be one of"),
        ("--backbone.width", "0", "backbone.width must be at least 1, not 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_field(
    flag: str, value: str, words: str, umbel: Callable[..., Any]
) -> None:
    code, _, err = umbel("pretrain", "d", "--out", "r", "--recipe", "demo", flag, value)
    assert code == 2
    assert words in shown(err)


FLAG = ["pretrain", "d", "--out", "r", "--recipe", "demo", "--train.batch", "0"]
SAID = "train.batch must be at least 1, not 0"


def test_a_wrong_flag_is_explained_without_a_locale(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "umbel", *FLAG]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert SAID in done.stderr


def test_a_wrong_flag_is_explained_on_a_terminal(tmp_path: Path) -> None:
    """Where colors and frames are drawn."""
    screen, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "umbel", *FLAG]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    text = b""
    with contextlib.suppress(OSError):  # Linux ends a closed terminal with an error
        while part := os.read(screen, 4096):
            text += part
    os.close(screen)
    assert process.wait() == 2
    assert SAID in shown(text.decode())


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `umbel doctor` end with an exception."""

    def end(error: BaseException) -> None:
        from umbel import doctor

        def raise_error() -> None:
            raise error

        monkeypatch.setattr(doctor, "examine", raise_error)

    return end


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("do this instead."), 2, "umbel: do this instead.\n"),
        (TrainingError("it diverged."), 3, "umbel: it diverged.\n"),
        (Stopped("saved.", 75), 75, "umbel: saved.\n"),
        (Stopped("saved.", 130), 130, "umbel: saved.\n"),
        (KeyboardInterrupt(), 130, "umbel: interrupted.\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), 2, "umbel: a/b: No space left on device.\n"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a/b"), 2, "umbel: a/b: Permission denied.\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "umbel: a file: No space left on device.\n"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, ends_with: Callable[..., None], umbel: Callable[..., Any]
) -> None:
    ends_with(error)
    assert umbel("doctor") == (code, "", message)


def test_an_exception_that_nobody_foresaw_shows_its_traceback() -> None:
    code = (
        "import sys; from umbel import cli, doctor; "
        "doctor.examine = lambda: 1 / 0; sys.argv = ['umbel', 'doctor']; sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_an_odd_error_of_the_system_shows_its_traceback(
    ends_with: Callable[..., None], umbel: Callable[..., Any]
) -> None:
    ends_with(OSError(errno.EBADF, "Bad file descriptor"))
    code, _, err = umbel("doctor")
    assert code == 1
    assert "Traceback" in err


def test_a_setting_is_refused_without_naming_its_class(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("votes", "simulate", "--out", tmp_path / "crowd", "--extra-votes", "-3")
    assert said.startswith("umbel: extra_votes must lie between 0 and 100, not be -3; `umbel votes simulate --help`")


@pytest.mark.parametrize("kind", ["long", "dangling"])
def test_a_place_that_the_system_refuses_is_named(kind: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    out = tmp_path / ("x" * 300 if kind == "long" else "dangling")
    words = {"long": "File name too long", "dangling": "File exists"}
    assert words[kind] in refused("shards", "make", "synthetic", "--train", 2, "--test", 0, "--out", out)


def test_a_name_that_the_terminal_cannot_show_is_shown_with_question_marks(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[..., Path]
) -> None:
    write_tar(tmp_path / "train-000000.tar", {"a.jpg": jpeg(), "a.cls": b"0"})
    (tmp_path / "classes.txt").write_text("蒲公英\n")
    command = [sys.executable, "-m", "umbel", "shards", "show", str(tmp_path), "--out", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"1  ???" in done.stdout


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    for command in (["-m", "umbel"], [str(CHECKOUT / "umbel" / "cli.py")]):
        done = subprocess.run([sys.executable, *command, "shards"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2


Photographs = Callable[..., Path]
Refused = Callable[..., str]


def pretrain(data: object, out: Path, *more: object) -> list[object]:
    return ["pretrain", data, "--out", out, "--device", "cpu", *more]


def bad_data(kind: str, tmp_path: Path, photographs: Photographs, foreign: Callable[..., Path]) -> tuple[Path, str]:
    """A DATA that cannot be pretrained on, and a word that the answer must hold."""
    data = tmp_path / "data"
    match kind:
        case "missing":
            return data, "data does not exist"
        case "empty folder":
            data.mkdir()
            return data, "data holds no photographs"
        case "folder of text":
            return photographs({"notes.txt": b"hello", "sub/list.csv": b"a,b"}, "data"), "data holds no photographs"
        case "text file":
            data.write_text("hello")
            return data, "data is not a folder"
        case "one photograph":
            return photographs(["a.jpg"], "data") / "a.jpg", "a.jpg is not a folder"
        case "stray photograph":
            return photographs(["rosa/a.jpg", "b.jpg"], "data"), "b.jpg lies beside class folders"
        case "test photographs":
            return photographs(["test/a.jpg"], "data"), "photographs of test only"
        case "test shards":
            return foreign(split="test", folder="data"), "no shard is of split train or unlabeled; there are: test"
        case "cut shard":
            path = foreign(folder="data") / "train-000001.tar"
            path.write_bytes(path.read_bytes()[:1500])
            return path.parent, "train-000001.tar is cut off"
        case "missing shard":
            return foreign(folder="data") / "train-{000000..000007}.tar", "train-000002.tar: there is no such shard"
        case "shard of another name":
            return (foreign(folder="data") / "train-000001.tar").rename(data / "plants.tar"), "plants.tar must be named"
        case "open brace":
            return foreign(folder="data") / "train-{000000..000001.tar", "train-{000000..000001.tar"
    raise AssertionError(kind)


KINDS = [
    "missing",
    "empty folder",
    "folder of text",
    "text file",
    "one photograph",
    "stray photograph",
    "test photographs",
    "test shards",
    "cut shard",
    "missing shard",
    "shard of another name",
    "open brace",
]


@pytest.mark.parametrize("recipe", ["auto", "demo"])
@pytest.mark.parametrize("kind", KINDS)
def test_data_that_cannot_be_pretrained_on_is_answered_in_a_sentence(
    kind: str,
    recipe: str,
    tmp_path: Path,
    photographs: Photographs,
    foreign_shards: Callable[..., Path],
    refused: Refused,
) -> None:
    data, words = bad_data(kind, tmp_path, photographs, foreign_shards)
    assert words in refused(*pretrain(data, tmp_path / "run", "--recipe", recipe))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pipe:cat train-000000.tar", "a pipe: runs a shell command"),
        ("smb://host/train-000000.tar", "smb: is not a way to read shards"),
        ("http://127.0.0.1:9/plants.tar", "plants.tar must be named"),
    ],
)
def test_a_url_that_is_not_read_is_answered_in_a_sentence(
    url: str, words: str, tmp_path: Path, refused: Refused
) -> None:
    assert words in refused(*pretrain(url, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_photographs_that_are_all_truncated_are_answered_in_a_sentence(
    tmp_path: Path, photographs: Photographs, jpeg: Callable[..., bytes], refused: Refused
) -> None:
    data = photographs({f"{n}.jpg": jpeg(n)[:200] for n in range(4)})
    sentence = refused(*pretrain(data, tmp_path / "run"))
    assert ".jpg" in sentence
    assert "4 of 4 photographs are bad" in sentence
    assert not (tmp_path / "run" / "shards" / "index.json").exists()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("deno", "recipe 'deno' is unknown, did you mean 'demo'?"),
        ("nowhere.yaml", "nowhere.yaml: there is no such file"),
        ("mine.yaml", "mine.yaml: train: unknown key 'bach', did you mean 'batch'?"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_answered_in_a_sentence(
    recipe: str, words: str, tmp_path: Path, photographs: Photographs, refused: Refused
) -> None:
    (tmp_path / "mine.yaml").write_text("format: 1\ncommand: pretrain\ntrain: {bach: 3}\n")
    name = tmp_path / recipe if recipe.endswith(".yaml") else recipe
    assert words in refused(*pretrain(photographs(["a.jpg"]), tmp_path / "run", "--recipe", name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--views.global-size", "50"], "views.global_size 50 is not a multiple of the backbone's patch of 8 px"),
        (["--views.local-size", "27"], "views.local_size 27 is not a multiple of the backbone's patch of 8 px"),
        (["--backbone.name", "vit_tinny_patch16_224"], "did you mean 'vit_tiny_patch16_224'?"),
        (["--backbone.name", "resnet18"], "resnet18"),
        (["--init", "nowhere"], "nowhere"),
        (["--device", "cuda"], "--device cuda"),
        (["--seed", "-1"], "seed"),
        (["--backbone.width", "10"], "backbone.width"),
        (["--optim.drop-path", "1.5"], "drop_path"),
    ],
)
def test_settings_that_do_not_fit_are_answered_in_a_sentence(
    flags: list[str], words: str, tmp_path: Path, photographs: Photographs, umbel: Callable[..., Any]
) -> None:
    import torch

    if flags[0] == "--device" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    data = photographs(["a.jpg", "b.jpg"])
    code, _, err = umbel("pretrain", data, "--out", tmp_path / "run", "--recipe", "demo", "--device", "cpu", *flags)
    assert code == 2, err
    assert words in shown(err)
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def begun(tmp_path: Path, photographs: Photographs) -> Path:
    """A run folder with a configuration and a checkpoint's place."""
    from umbel import config
    from umbel.ssl.pretrain_config import PretrainConfig

    out = tmp_path / "run"
    (out / "checkpoints" / "step-00000005").mkdir(parents=True)
    (out / "metrics.jsonl").write_text('{"step": 5}\n')
    base = PretrainConfig(data=str(photographs(["a.jpg", "b.jpg"])), out=out, device="cpu", recipe="demo")
    values = config.read_recipe("demo", "pretrain") | {"train": {"precision": "float32", "batch": 64}}
    (out / "config.yaml").write_text(config.write_recipe(config.from_values(base, values, "demo"), "pretrain"))
    return out


def test_the_folder_of_another_run_is_refused_and_left_alone(
    begun: Path, tmp_path: Path, refused: Refused, content: Callable[[Path], dict[str, bytes | None]]
) -> None:
    before = content(begun)
    sentence = refused(*pretrain(tmp_path / "photographs", begun, "--recipe", "demo", "--views.flip", "0.25"))
    assert "is a run with another configuration (" in sentence
    assert "views.flip" in sentence or "train." in sentence
    assert "choose another --out, or --force" in sentence
    assert content(begun) == before


@pytest.mark.parametrize("out", ["thesis", "file"])
def test_a_place_that_holds_something_else_is_refused_and_left_alone(
    out: str, tmp_path: Path, photographs: Photographs, refused: Refused
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")
    (tmp_path / "file").write_text("dear")
    refused(*pretrain(photographs(["a.jpg"]), tmp_path / out))
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    assert (tmp_path / "file").read_text() == "dear"


def test_a_run_is_not_written_into_the_photographs(
    photographs: Photographs, refused: Refused, content: Callable[[Path], dict[str, bytes | None]]
) -> None:
    data = photographs(["a.jpg", "b.jpg"])
    before = content(data)
    for flags in ([], ["--force"]):
        refused(*pretrain(data, data, *flags))
        assert content(data) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nowhere"], "nowhere does not exist: give a run folder"),
        (["export", "empty"], "empty is neither a run nor a folder with config.json and model.safetensors"),
        (["export", "notes.txt"], "notes.txt"),
        (["export", "nowhere", "--to", "timm"], "nowhere does not exist: give a run folder"),
        (["export", "empty", "--to", "onx"], "not 'onx', did you mean 'onnx'"),
        (["export", "empty", "--int8"], "--int8 is for ONNX models and bundles"),
        (["import", "nowhere", "out"], "nowhere does not exist"),
        (["predict", "empty", "notes.txt"], "empty is no bundle"),
        (["predict", "empty"], "there is no photograph to name"),
        (["shards", "check", "nowhere"], "nowhere: there are no shards"),
        (["shards", "make", "folder", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["shards", "make", "folder", "notes.txt", "--out", "out"], "notes.txt is not a folder"),
        (["shards", "make", "synthetic", "--out", "empty", "--train", "0"], "--train must be at least 1"),
    ],
)
def test_other_commands_answer_bad_input_in_a_sentence(
    arguments: list[str], words: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    assert words in refused(*arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "notes.txt"]


@pytest.mark.parametrize("launch", ["slurm --launch.dry-run", "local"])
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("pretrain nowhere --recipe demo --out out", "nowhere does not exist: give a folder of photographs or of"),
        ("pretrain notes.txt --recipe demo --out out", "notes.txt is not a folder: give a folder of photographs or of"),
        ("pretrain no-{0..1}.tar --recipe demo --out out", "no-0.tar: there is no such shard"),
        ("pretrain photographs --recipe demo --mix.data no --mix.weights 1 --out out", "no does not exist: give a"),
        ("pretrain photographs --recipe demo --probe.data no --out out", "no does not exist: give a folder"),
        ("embed vit_tiny_patch16_224 --data nowhere --out out", "nowhere does not exist: give a folder"),
        ("probe vit_tiny_patch16_224 --data nowhere", "nowhere does not exist: give a folder"),
        ("demo --data nowhere --out out", "nowhere does not exist: give a folder"),
        ("hash fit vit_tiny_patch16_224 --data empty --out out", "empty holds no shards: make them with `umbel shards"),
    ],
)
def test_data_that_are_not_there_are_told_before_a_command_is_sent(
    command: str,
    sentence: str,
    launch: str,
    tmp_path: Path,
    photographs: Photographs,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photographs(["a.jpg"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.setattr("umbel.launch.dispatch.dispatch", lambda *_, **__: pytest.fail("it was sent"))
    assert refused(*command.split(), "--launch", *launch.split()).startswith(f"umbel: {sentence}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", ["photographs", "s3://bucket/train-{000000..000009}.tar"])
def test_data_that_are_there_or_remote_are_sent(
    data: str, tmp_path: Path, photographs: Photographs, umbel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(["a.jpg"])
    monkeypatch.chdir(tmp_path)
    words = ["pretrain", data, "--recipe", "demo", "--out", "out", "--launch", "slurm", "--launch.dry-run"]
    code, out, err = umbel(*words)
    assert code == 0, err
    assert "srun" in out
