"""Recipes: strict YAML into dataclasses, flags over them, and every recipe that is shipped."""

import dataclasses
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from umbel import config
from umbel.run import UserError
from umbel.ssl.finetune_config import FinetuneConfig
from umbel.ssl.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings inside settings."""

    rate: float = 0.5
    name: str = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"inner.rate must not be negative, not {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One field of every kind that a recipe may hold."""

    count: int = 1
    rate: float = 1.0
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    kind: Literal["plain", "fancy"] = "plain"
    maybe: int | None = None
    switch: bool = False
    where: Path = Path("here")
    inner: Inner = field(default_factory=Inner)


Write = Callable[..., str]


@pytest.fixture
def recipe(tmp_path: Path) -> Write:
    """Write a recipe file: the header, then the given lines."""

    def write(text: str = "", header: str = "format: 1\ncommand: test\n") -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(header + text)
        return str(path)

    return write


def read(path: str) -> Settings:
    return config.from_values(Settings(), config.read_recipe(path, "test"), "recipe")


def test_values_replace_defaults_and_the_rest_stays(recipe: Write) -> None:
    assert read(recipe("count: 3\ninner: {rate: 0.25}\n")) == Settings(count=3, inner=Inner(rate=0.25))


def test_an_empty_recipe_changes_nothing(recipe: Write) -> None:
    assert read(recipe()) == Settings()


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001", "1E-6"])
def test_small_numbers_need_no_point(recipe: Write, text: str) -> None:
    assert read(recipe(f"rate: {text}")).rate == 1e-6


def test_a_whole_number_serves_as_a_float(recipe: Write) -> None:
    found = read(recipe("rate: 2\npair: [0, 1]")).rate
    assert (found, type(found)) == (2.0, float)


def test_lists_become_tuples_of_any_length_where_the_field_says_so(recipe: Write) -> None:
    found = read(recipe("pair: [0.25, 0.5]\nnames: [x, y, z]"))
    assert (found.pair, found.names) == ((0.25, 0.5), ("x", "y", "z"))


def test_null_is_a_value_where_the_field_says_so(recipe: Write) -> None:
    assert read(recipe("maybe: null")).maybe is None
    assert read(recipe("maybe: 4")).maybe == 4


def test_paths_are_paths(recipe: Write) -> None:
    assert read(recipe("where: a/b")).where == Path("a/b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuont: 3", ["recipe: unknown key 'cuont', did you mean 'count'?"]),
        ("inner: {rat: 3}", ["inner: unknown key 'rat'", "did you mean 'rate'?"]),
        ("qqqqqq: 3", ["unknown key 'qqqqqq'."]),
        ("1: 3", ["key 1 is not text"]),
        ("on: 3", ["key True is not text"]),
        ("count: 1\ncount: 2", ["key 'count' is given twice", "line 4"]),
        ("inner: {rate: 1, rate: 2}", ["key 'rate' is given twice"]),
        ("[a]: 3", ["recipe"]),
        ("count: three", ["count must be of type int", "'three'"]),
        ("count: 1.5", ["count must be of type int", "1.5"]),
        ("count: true", ["count must be of type int", "True"]),
        ("count: null", ["count must be of type int", "None"]),
        ("rate: fast", ["rate must be of type float", "'fast'"]),
        ("rate: true", ["rate must be of type float", "True"]),
        ("switch: 1", ["switch must be of type bool", "1"]),
        ("where: 3", ["where must be of type str", "3"]),
        ("maybe: some", ["maybe must be of type int", "'some'"]),
        ("kind: fancier", ["kind must be one of plain, fancy", "'fancier'"]),
        ("pair: [0.5]", ["pair must be a list of 2", "[0.5]"]),
        ("pair: [0, 1, 2]", ["pair must be a list of 2"]),
        ("pair: 0.5", ["pair must be a list of 2", "0.5"]),
        ("pair: [0, b]", ["pair must be of type float", "'b'"]),
        ("names: x", ["names must be a list, not 'x'"]),
        ("count: 24:00", ["count must be of type int", "'24:00'"]),
        ("rate: 1:30.5", ["rate must be of type float", "'1:30.5'"]),
        ("inner: 3", ["inner must be a mapping", "3"]),
        ("inner: null", ["inner must be a mapping", "None"]),
        ("inner: {rate: -1}", ["inner.rate must not be negative", "-1"]),
        ("count: [", ["not valid YAML"]),
        ("count: !!python/name:os.system 3", ["not valid YAML"]),
        ("- a", ["not valid YAML"]),
        ("count: \x01", ["not valid YAML"]),
    ],
)
def test_a_fault_is_named_in_one_sentence(recipe: Write, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(recipe(text))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    assert not str(caught.value).endswith(("?.", ".."))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("command: test\n", "must say 'format: 1', not None"),
        ("format: 2\ncommand: test\n", "must say 'format: 1', not 2"),
        ("format: 1\n", "must say 'command: test'"),
        ("format: 1\ncommand: probe\n", "must say 'command: test' to be used here, not 'probe'"),
        ("- 1\n- 2\n", "must be a mapping of settings, not list"),
        ("", "must be a mapping of settings"),
    ],
)
def test_the_header_is_checked(recipe: Write, header: str, words: str) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml") as caught:
        config.read_recipe(recipe(header=header), "test")
    assert words in str(caught.value)


def test_a_recipe_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: there is no such file"):
        config.read_recipe(str(tmp_path / "nowhere.yaml"), "test")


def test_a_recipe_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(UserError, match=r"photo\.yaml"):
        config.read_recipe(str(path), "test")


def test_a_recipe_in_the_users_language_is_read_as_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    path = tmp_path / "recipe.yaml"
    path.write_bytes("format: 1\ncommand: test\nwhere: prés/été\n".encode())
    assert read(str(path)).where == Path("prés/été")


def test_an_unknown_recipe_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UserError, match=r"'vitb6' is unknown, did you mean 'vitb16'\?; there are: .*demo"):
        config.read_recipe("vitb6", "pretrain")


@pytest.mark.parametrize("name", config.recipe_names())
def test_a_shipped_recipe_loads_and_says_what_to_expect(name: str) -> None:
    base = PretrainConfig(data="data", out=Path("run"))
    loaded = config.from_values(base, config.read_recipe(name, "pretrain"), name)
    assert loaded != base
    text = (importlib.resources.files("umbel") / "recipes" / f"{name}.yaml").read_text()
    opening = [line for line in text.split("format:")[0].splitlines() if line]
    assert all(line.startswith("#") for line in opening)
    keys = {line.lstrip("# ").split()[0] for line in opening}
    assert {"Expected", "Time", "Hardware", "Disk", "Memory", "Command"} <= keys
    assert f"--recipe {name}" in text[text.index("   Command ") :]


def test_shipped_recipes_are_all_listed() -> None:
    folder = Path(config.__file__).parent / "recipes"
    files = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    commands = ("pretrain", *config.RECIPE_FOLDERS)
    assert {name for command in commands for name in config.recipe_names(command)} == files
    assert set(config.recipe_names("pipeline")) == {"pipeline/folder", "pipeline/plants"}
    assert set(config.recipe_names("finetune")) == {"finetune/small-cpu", "finetune/vitb16"}
    assert {"demo", "small-cpu", "vitb16", "vits16"} <= files


@pytest.mark.parametrize("name", config.recipe_names("finetune"))
def test_a_recipe_of_fine_tuning_loads_and_says_what_to_expect(name: str) -> None:
    base = FinetuneConfig(backbone="backbone", data="data", out=Path("run"))
    assert config.from_values(base, config.read_recipe(name, "finetune"), name) != base
    text = (importlib.resources.files("umbel") / "recipes" / f"{name}.yaml").read_text()
    keys = {line.lstrip("# ").split()[0] for line in text.splitlines() if line.startswith("#")}
    assert {"Expected", "Time", "Hardware", "Disk", "Memory", "Command"} <= keys
    asked = config.parse(FinetuneConfig, text.split("umbel finetune ")[1].split("\n")[0].split(), prog="u", help="")
    assert asked.recipe == name


@pytest.mark.parametrize("name", config.recipe_names())
def test_a_written_configuration_is_a_recipe_of_itself(name: str, tmp_path: Path) -> None:
    base = PretrainConfig(data="data with 'quotes' é", out=tmp_path / "run", seed=7)
    resolved = config.from_values(base, config.read_recipe(name, "pretrain"), name)
    file = tmp_path / "config.yaml"
    file.write_text(config.write_recipe(resolved, "pretrain"))
    other = PretrainConfig(data="elsewhere", out=Path("there"))
    assert config.from_values(other, config.read_recipe(str(file), "pretrain"), "x") == resolved


def test_flags_stand_over_the_recipe() -> None:
    arguments = ["data", "--out", "run", "--recipe", "demo", "--train.batch", "5", "--views.global-area", "0.3", "0.9"]
    found = config.parse(PretrainConfig, arguments, prog="umbel pretrain", help="")
    assert (found.train.batch, found.views.global_area) == (5, (0.3, 0.9))
    assert (found.backbone.width, found.train.epochs, found.recipe) == (128, 6.0, "demo")


def test_a_flag_at_its_dataclass_default_still_stands_over_the_recipe() -> None:
    default = PretrainConfig(data="data", out=Path("run"))
    arguments = ["data", "--out", "run", "--recipe", "demo", "--train.batch", str(default.train.batch)]
    assert config.parse(PretrainConfig, arguments, prog="umbel pretrain", help="").train.batch == default.train.batch


def test_a_recipe_may_be_a_file_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("format: 1\ncommand: pretrain\nseed: 3\ntrain: {epochs: 1e-1}\n")
    found = config.parse(PretrainConfig, ["data", "--out", "run", "--recipe", str(file)], prog="umbel", help="")
    assert (found.seed, found.train.epochs, found.recipe) == (3, 0.1, str(file))


def test_a_recipe_cannot_point_to_another_recipe_s_data(tmp_path: Path) -> None:
    """A run's config.yaml is a recipe, yet DATA and --out of the command line stand."""
    file = tmp_path / "config.yaml"
    file.write_text(config.write_recipe(PretrainConfig(data="old", out=Path("old-run"), seed=5), "pretrain"))
    found = config.parse(PretrainConfig, ["new", "--out", "new-run", "--recipe", str(file)], prog="umbel", help="")
    assert (found.data, found.out, found.seed) == ("new", Path("new-run"), 5)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_a_length_of_training_that_is_no_number_of_epochs_is_refused(value: str) -> None:
    with pytest.raises((UserError, SystemExit)):
        config.parse(
            PretrainConfig, ["d", "--out", "r", "--recipe", "demo", "--train.epochs", value], prog="u", help=""
        )


def difference(a: dict[str, Any], b: dict[str, Any], *ignore: str) -> str | None:
    return config.first_difference(a, b, ignore)


def test_first_difference_names_the_first_field_with_both_values() -> None:
    old = {"seed": 1, "train": {"batch": 4, "epochs": 2}, "last": 0}
    assert difference(old, old) is None
    assert difference(old, old | {"train": {"batch": 5, "epochs": 3}, "last": 9}) == "train.batch: 4 there, 5 now"


def test_first_difference_passes_over_what_is_ignored_by_dotted_name() -> None:
    old = {"out": "a", "train": {"batch": 4, "epochs": 2}}
    new = {"out": "b", "train": {"batch": 5, "epochs": 2}}
    assert difference(old, new, "out", "train.batch") is None
    assert difference(old, new, "out", "batch") == "train.batch: 4 there, 5 now"
    assert difference(old, new, "train") == "out: a there, b now"


def test_first_difference_sees_fields_that_came_or_went() -> None:
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "b: None there, 2 now"
    assert difference({"a": 1, "b": 2}, {"a": 1}) == "b: 2 there, None now"


def test_every_setting_of_pretraining_has_its_word_of_help() -> None:
    import inspect

    def fields(kind: type) -> None:
        source = "".join(inspect.getsource(base) for base in kind.__mro__ if dataclasses.is_dataclass(base))
        for entry in dataclasses.fields(kind):
            inner = getattr(kind, entry.name, None) or entry.default_factory
            if dataclasses.is_dataclass(inner):
                fields(inner if isinstance(inner, type) else type(inner))
                continue
            after = source.split(f"\n    {entry.name}: ")[1].split("\n")[1]
            assert after.strip().startswith('"""'), f"{kind.__name__}.{entry.name}"

    fields(PretrainConfig)


@pytest.mark.parametrize("seed", [-1, 1 << 63, 10**23])
def test_a_seed_that_torch_does_not_take_is_refused(seed: int) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Seeded:
        seed: int = 0
        """A seed."""

    with pytest.raises(UserError, match=f"--seed must be from 0 to 9,223,372,036,854,775,807, not {seed}"):
        config.parse(Seeded, ["--seed", str(seed)], prog="umbel x", help="")
    assert config.parse(Seeded, ["--seed", str((1 << 63) - 1)], prog="umbel x", help="").seed == (1 << 63) - 1
