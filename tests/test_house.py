"""The rules of the house: doors between rooms, names that shadow nothing, files that git sees, nothing unpickled."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "umbel"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
ROOMS = ("ssl", "augment", "data", "evaluation", "launch")
DOORS = {
    "ssl": {"evaluation", "augment", "data"},
    "evaluation": {"augment", "data"},
    "augment": set(),
    "data": set(),
    "launch": set(),
}
every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())


def imports(file: Path) -> set[str]:
    """Absolute names of all that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = list(file.relative_to(CHECKOUT).parent.parts)
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("umbel.")} & set(ROOMS)


def calls(file: Path, name: str) -> Iterator[ast.Call]:
    """Calls such as `torch.load(...)`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            yield node


def test_rooms_open_only_their_own_doors() -> None:
    for file in FILES:
        room = file.relative_to(PACKAGE).parts[0]
        if room in ROOMS:
            assert rooms_of(imports(file)) - {room} <= DOORS[room], file


def test_what_stands_beside_the_rooms_imports_none_of_them() -> None:
    alone = ("run", "config", "run_folder", "machine", "doctor", "coding_rate", "random_stream", "ranks")
    watching = ("rank_notes", "rank_verdict", "rank_watch")
    for name in (*alone, *watching, "image_statistics", "source_code", "surroundings"):
        assert not rooms_of(imports(PACKAGE / f"{name}.py")), name


def test_backbones_import_no_room() -> None:
    for file in (PACKAGE / "backbones").rglob("*.py"):
        assert not rooms_of(imports(file)), file


@every_file
def test_nothing_imports_the_command_but_main(file: Path) -> None:
    if file.name != "__main__.py":
        assert "umbel.cli" not in imports(file)


def test_there_is_no_utils() -> None:
    folders = [CHECKOUT / name for name in ("umbel", "tests", "benchmarks", "examples")]
    assert not [path for folder in folders for path in folder.rglob("util*.py")]


def test_no_room_and_no_test_folder_is_a_regular_package() -> None:
    assert not [room for room in ROOMS if (PACKAGE / room / "__init__.py").exists()]
    assert not list((CHECKOUT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("command", [["umbel/cli.py", "--help"], ["-m", "umbel", "--help"]], ids=" ".join)
def test_help_answers_however_python_is_started(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: umbel" in done.stdout
    assert done.stderr == ""


def test_a_whole_command_runs_from_the_file_itself() -> None:
    """With umbel/ first on the path: no library of ours may take our rooms and modules for its own."""
    done = subprocess.run(
        [sys.executable, "umbel/cli.py", "doctor", "--json"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_pythons_own_ssl_is_found_from_inside_the_package() -> None:
    code = "import asyncio, ssl; ssl.SSLContext; print(ssl.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(PACKAGE) not in done.stdout


def test_no_module_shadows_one_of_the_standard_library() -> None:
    own = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert not own & sys.stdlib_module_names


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this is not a git checkout ({error.stderr.strip()})")
    return done.stdout


def test_git_tracks_every_file_of_the_package() -> None:
    tracked = set(git("ls-files", "umbel").splitlines())
    there = {
        path.relative_to(CHECKOUT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - tracked == set()


def test_git_ignores_no_file_of_package_tests_or_examples() -> None:
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "umbel", "tests", "examples", "docs")
    assert [line for line in ignored.splitlines() if "__pycache__" not in line] == []


def test_ignore_patterns_are_anchored() -> None:
    lines = (CHECKOUT / ".gitignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns
    for pattern in patterns:
        assert pattern.startswith(("/", "*.")) or pattern == "__pycache__/", pattern


@every_file
def test_nothing_is_unpickled(file: Path) -> None:
    for name in imports(file):
        assert name.split(".")[0] not in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"), name
    for call in calls(file, "torch.load"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("weights_only") == "True", ast.unparse(call)
    for call in calls(file, "np.load"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("allow_pickle", "False") == "False", ast.unparse(call)
    for call in calls(file, "yaml.load"):
        assert "StrictLoader" in ast.unparse(call), ast.unparse(call)
    for name in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "eval", "exec"):
        assert not list(calls(file, name)), name


def test_the_recipe_loader_is_a_safe_one() -> None:
    from umbel.config import StrictLoader

    assert issubclass(StrictLoader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=StrictLoader)


@every_file
def test_a_file_opens_with_a_short_docstring(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring
    assert len(docstring.splitlines()) <= 5


def test_no_file_names_a_place_on_the_machine_it_was_written_on() -> None:
    for folder in ("umbel", "tests"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".toml"):
                assert str(CHECKOUT.parent) + "/" not in path.read_text(), path
