"""What many tests need: small photographs, folders of them, shards, and the command run in this process."""

import functools
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

DYING = """
import os, signal, sys
from umbel.data import unfinished
from umbel.cli import main
unfinished.PENDING_BYTES = {pending}
add, left = unfinished.UnfinishedShards.add, iter(range({adds}))
def add_or_die(self, result):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.{signal})
    add(self, result)
unfinished.UnfinishedShards.add = add_or_die
sys.exit(main(sys.argv[1:]))
"""
CHECKOUT = Path(__file__).parents[1]
PROGRESS = re.compile(r"[a-z ]+: \d+/\d+")


class Ending(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Server:
    """A folder over HTTP; `trouble` says by a file's name how its next requests go wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[str] = Counter()
        self.trouble: dict[str, list[str]] = {}
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                server.asked[name] += 1
                queue = server.trouble.get(name, [])
                match queue.pop(0) if queue else "":
                    case "503":
                        self.send_error(503)
                    case "drop":
                        self.close_connection = True
                    case "cut":
                        content = (server.root / self.path.lstrip("/")).read_bytes()
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(content)))
                        self.end_headers()
                        self.wfile.write(content[: len(content) // 2])
                    case "short":  # cut off, and nothing tells that it was
                        content = (server.root / self.path.lstrip("/")).read_bytes()
                        self.send_response(200)
                        self.end_headers()
                        self.wfile.write(content[: len(content) // 2])
                    case "page":  # as a server that wants a login answers
                        self.send_response(200)
                        self.end_headers()
                        self.wfile.write(b"<!DOCTYPE html><html><body>Sign in</body></html>")
                    case "stall":
                        self.send_response(200)
                        self.send_header("Content-Length", "1000000")
                        self.end_headers()
                        self.wfile.write(b"x" * 100)
                        self.wfile.flush()
                        server.release.wait(30)
                    case _:
                        super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.release = threading.Event()
        handler = functools.partial(Handler, directory=str(root))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep indexes of foreign shards out of the user's own cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, in shared/data beside the checkout; the test is skipped where they are not."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real photographs (../shared/data beside the checkout) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Draw a picture that no other seed gives: coarse random blocks, so that JPEG keeps them small."""

    def draw(seed: int = 0, *, width: int = 48, height: int = 36) -> Image.Image:
        blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR)

    return draw


@pytest.fixture(scope="session")
def jpeg(picture: Callable[..., Image.Image]) -> Callable[..., bytes]:
    """The same picture as JPEG bytes."""

    def encode(seed: int = 0, *, width: int = 48, height: int = 36) -> bytes:
        buffer = io.BytesIO()
        picture(seed, width=width, height=height).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    return encode


@pytest.fixture
def photographs(tmp_path: Path, jpeg: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a folder of photographs: names, or name -> bytes."""

    def write(names: Mapping[str, bytes] | list[str], folder: str = "photographs") -> Path:
        root = tmp_path / folder
        root.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(names[name] if isinstance(names, Mapping) else jpeg(seed))
        return root

    return write


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """Write a tar with the given members, as any other tool would."""

    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def foreign_shards(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[[Path, Mapping[str, bytes]], Path]
) -> Callable[..., Path]:
    """Write shards without an index: `shards` of `count` photographs each, label = number of the sample mod 3."""

    def write(shards: int = 2, count: int = 4, *, split: str = "train", folder: str = "foreign", **size: int) -> Path:
        root = tmp_path / folder
        for shard in range(shards):
            members: dict[str, bytes] = {}
            for row in range(count):
                number = shard * count + row
                key = f"{split}_{number:05d}"
                members |= {f"{key}.jpg": jpeg(number, **size), f"{key}.cls": f"{number % 3}".encode()}
            write_tar(root / f"{split}-{shard:06d}.tar", members)
        return root

    return write


@pytest.fixture
def made_shards(tmp_path: Path, photographs: Callable[..., Path]) -> Callable[..., Path]:
    """Make shards with Umbel from 6 photographs of two classes, 3 in a shard."""

    def make(out: str = "shards", **settings: Any) -> Path:
        from umbel.data.make import MakeFolderConfig, make_folder

        source = photographs([f"{name}/{number}.jpg" for name in ("rosa", "salvia") for number in range(3)])
        make_folder(MakeFolderConfig(data=source, out=tmp_path / out, **({"shard_size": 3, "workers": 1} | settings)))
        return tmp_path / out

    return make


@pytest.fixture
def dying_umbel() -> Callable[..., subprocess.Popen[str]]:
    """Start the command in a process that sends itself a signal before it takes in a photograph more than `adds`.

    The shards' journal is written when `pending` bytes wait for it.
    """

    def start(*arguments: object, adds: int, pending: int = 0, signal: str = "SIGKILL") -> subprocess.Popen[str]:
        code = DYING.format(adds=adds, pending=pending, signal=signal)
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def umbel(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ending]:
    """Run the command in this process."""

    def run(*arguments: object) -> Ending:
        from umbel.cli import main

        capsys.readouterr()
        try:
            code: Any = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        return Ending(int(code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def refused(umbel: Callable[..., Ending]) -> Callable[..., str]:
    """Run a command that must end in one sentence and exit code 2; returns the sentence."""

    def run(*arguments: object) -> str:
        code, _, err = umbel(*arguments)
        assert code == 2, err
        # Progress may stand in front of it, and nothing else.
        *progress, sentence = err.splitlines()
        assert all(PROGRESS.match(line) for line in progress), err
        assert sentence.startswith("umbel: "), err
        assert sentence.endswith((".", "?")), err
        assert not sentence.endswith(("?.", "..")), err
        return sentence

    return run


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes | None]]:
    """Everything below a folder: relative path -> bytes (None for a folder)."""

    def read(folder: Path) -> dict[str, bytes | None]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    return read


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own folder."""
    found = Server(tmp_path)
    yield found
    found.close()
