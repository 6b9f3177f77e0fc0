"""What is shipped: the whole package in the wheel, tests and papers in the sdist too, metadata that tells the truth."""

import email
import importlib.util
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
EXTRAS = {"search", "lora", "text", "onnx", "tensorboard", "dev"}


def package_files() -> set[str]:
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "umbel").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist, each built from the checkout."""
    for module in ("build", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'umbel[dev]'")
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("pyproject.toml is not beside the tests")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", str(out)]
    done = subprocess.run([*command, str(CHECKOUT)], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(dist.glob("*.whl")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_exactly_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == package_files()


def test_wheel_holds_types_recipes_and_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "umbel/py.typed" in names
    assert "umbel/recipes/demo.yaml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "umbel = umbel.cli:main" in wheel.read(name).decode()


def test_wheel_answers_for_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked elsewhere, with the checkout out of reach of the import: help, version and recipes are there."""
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import umbel; from umbel import cli, config; "
        "print(umbel.__file__, *config.recipe_names()); sys.exit(cli.main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path))
    assert "demo" in done.stdout.split()
    assert "usage: umbel" in done.stdout


def test_sdist_holds_what_is_needed_to_build_test_and_read_it(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    tests = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "tests").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert tests <= names
    papers = {"Makefile", "constraints.txt", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert papers | {"pyproject.toml"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist/"))]


def test_metadata_names_extras_python_and_licence(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (CHECKOUT / "LICENSE").read_text()


def test_version_is_the_packages_own(metadata: Message) -> None:
    from umbel import __version__

    assert metadata["Version"] == __version__


def test_every_library_that_is_imported_is_required(metadata: Message) -> None:
    """Importing the package must not lean on what another library happens to bring along."""
    import ast

    known_as = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    needed = {name.split(";")[0].split(">")[0].strip() for name in metadata.get_all("Requires-Dist", [])}
    for file in (CHECKOUT / "umbel").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"umbel"}:
                assert known_as.get(top, top) in needed, f"{file.name} imports {top}"


def test_constraints_pin_every_required_library() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower() for line in (CHECKOUT / "constraints.txt").read_text().splitlines()}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert {name.split(">")[0].lower() for name in wanted} - pinned == set()
