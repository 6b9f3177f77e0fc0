"""The local server, asked without a browser: what it answers, refuses, and never opens."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.evaluation.embed import embed
from umbel.evaluation.hashing import ITQ, Codes, hamming_search, load_hasher, pack, save_hasher
from umbel.evaluation.hashing import serve_http as http_file
from umbel.evaluation.hashing.encode_command import HashEncodeConfig
from umbel.evaluation.hashing.encode_command import run as encode
from umbel.evaluation.hashing.serve_command import HashServeConfig, make_server
from umbel.evaluation.hashing.serve_http import Server
from umbel.evaluation.hashing.serve_photographs import open_photographs
from umbel.evaluation.hashing.serve_upload import MOST_BYTES, MOST_PIXELS, RefusedError, decode_upload
from umbel.run import UserError

SCRIPT = "<script>alert(1)</script>"


class Site(NamedTuple):
    """A running server and what it serves."""

    server: Server
    codes: Path
    data: Path

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        """Status, headers and content; the path goes out as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        with contextlib.closing(connection):
            told = {"Host": f"127.0.0.1:{self.server.server_port}"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            connection.putrequest(method, path, skip_host=True)
            for name, value in told.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in told:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("Content-Type", "").startswith("application/json")
            return response.status, response, json.loads(content) if is_json else content


@pytest.fixture
def site(tmp_path: Path, foreign_shards: Callable[..., Path]) -> Iterator[Site]:
    """Codes of twelve photographs by a tiny random backbone, one of them damaged; a species bears a script's name."""
    data = foreign_shards(shards=3, count=4)
    (data / "classes.txt").write_text(f"{SCRIPT}\nSálvia\nThymus\n")
    config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=0)
    torch.manual_seed(0)
    sizes = {"arguments": model_arguments(config, 16), "image_size": 16, "num_features": 16}
    card = ModelCard(architecture=config.name, mean=(0.5,) * 3, std=(0.5,) * 3, **sizes)  # type: ignore[arg-type]
    write_timm_folder(tmp_path / "backbone", build(config, 16).state_dict(), card)
    made = embed(load(str(tmp_path / "backbone")), open_shards(str(data)), device="cpu")
    # As where the fifth photograph was damaged and left out.
    made.take(np.delete(np.arange(12), 4)).save(tmp_path / "embeddings")
    save_hasher(tmp_path / "coder", ITQ(12).fit(made.features), {})
    codes = tmp_path / "codes"
    encode(HashEncodeConfig(coder=tmp_path / "coder", embeddings=tmp_path / "embeddings", out=codes))
    with make_server(HashServeConfig(codes=codes, port=0, top=5)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield Site(server, codes, data)
        server.shutdown()
        thread.join()


def test_a_photograph_is_answered_as_the_library_would(site: Site, jpeg: Callable[..., bytes]) -> None:
    codes = Codes.load(site.codes)
    status, _, told = site.ask("/search", method="POST", body=jpeg(77))
    assert status == 200
    backbone, (hasher, _) = load(str(site.codes.parent / "backbone")), load_hasher(site.codes.parent / "coder")
    with torch.inference_mode():
        image = backbone.transform(Image.open(io.BytesIO(jpeg(77))).convert("RGB"))[None]
        logits = hasher.logits(backbone.model(image).numpy())
    distances, rows = hamming_search(pack(logits > 0), codes.packed, 5)
    assert [row["row"] for row in told["found"]] == rows[0].tolist()
    assert [row["hamming"] for row in told["found"]] == distances[0].tolist()
    assert [row["key"] for row in told["found"]] == [codes.keys[row] for row in rows[0]]
    assert [row["name"] for row in told["found"]] == [codes.name(row) for row in rows[0]]
    assert told["bits"] == 12


def test_a_key_or_a_row_of_the_set(site: Site) -> None:
    codes = Codes.load(site.codes)
    by_key, by_row = site.ask(f"/search?key={codes.keys[3]}")[2], site.ask("/search?row=3")[2]
    for one in (by_key, by_row):
        one.pop("milliseconds")
    assert by_key == by_row
    assert by_key["query"] == {"row": 3, "key": "train_00003", "name": SCRIPT, "split": "train"}
    assert 3 not in [row["row"] for row in by_key["found"]]
    status, _, told = site.ask("/search?key=train_00033")
    assert (status, told["error"][:50]) == (404, "There is no photograph with the key 'train_00033',")
    for path in ("/search?row=11", "/search?row=999999999999"):
        assert site.ask(path)[0] == 404
    for path in ("/search", "/search?row=-1", "/search?row=1e3", "/search?row=%D9%A1", "/search?" + "a=1&" * 9):
        assert site.ask(path)[0] == 400


def test_pictures_are_those_of_their_keys(site: Site, jpeg: Callable[..., bytes]) -> None:
    for row, number in ((0, 0), (3, 3), (4, 5), (10, 11)):
        status, response, content = site.ask(f"/photograph/{row}")
        assert (status, response.getheader("Content-Type")) == (200, "image/jpeg")
        shown, original = (np.asarray(Image.open(io.BytesIO(one)), float) for one in (content, jpeg(number)))
        assert np.abs(shown - original).mean() < 6
    for path in ("/photograph/11", "/photograph/", "/photograph/0x1", "/photograph/-1", "/photograph/1234567890123"):
        assert site.ask(path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../codes.json",
        "/photograph/../../codes/keys.txt",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/photograph/..%2f..%2fkeys.txt",
        "//etc/passwd",
        "/etc/passwd",
        "/page.css/../../keys.txt",
        "/keys.txt",
        "//[keys.txt",
        "/codes.safetensors",
    ],
)
def test_no_address_opens_a_file(path: str, site: Site) -> None:
    status, _, told = site.ask(path)
    assert status == 404
    assert list(told) == ["error"]


def test_a_key_that_is_a_path_is_a_key_alone(site: Site) -> None:
    status, _, told = site.ask("/search?key=../../../../etc/passwd")
    assert status == 404
    assert "no photograph with the key" in told["error"]


def test_every_answer_carries_strict_headers(site: Site) -> None:
    for path, method in (
        ("/", "GET"),
        ("/page.js", "GET"),
        ("/nowhere", "GET"),
        ("/search?row=1", "GET"),
        ("/", "PUT"),
    ):
        _, response, _ = site.ask(path, method=method)
        policy = response.getheader("Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Referrer-Policy") == "no-referrer"
        assert response.getheader("X-Frame-Options") == "DENY"
        assert "Python" not in response.getheader("Server")


def test_the_page_carries_no_script_of_its_own_and_no_name_as_markup(site: Site) -> None:
    codes = site.codes.rename(site.codes.with_name("<b>codes"))
    (codes / "keys.txt").write_text((codes / "keys.txt").read_text().replace("train_00000", "<i>&amp;</i"))
    server = make_server(HashServeConfig(codes=codes, port=0))
    server.server_close()
    text = server.texts["/"][1]
    assert text.count("<script") == 1
    assert '<script src="/page.js" defer=""></script>' in text
    assert "<style" not in text
    assert " style=" not in text
    assert "<b>codes" not in text
    assert "&lt;b&gt;codes" in text
    assert "&lt;i&gt;&amp;amp;&lt;/i" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8000"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "192.168.0.7"}, 421),
        ({"Host": "a b"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:9000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_its_own_page_may_ask(headers: dict[str, str], status: int, site: Site) -> None:
    assert site.ask("/search?row=0", **headers)[0] == status
    assert site.ask("/", **headers)[0] == status


def test_two_hosts_are_one_too_many(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 421")


def test_an_open_host_takes_numbers_and_its_own_name_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from umbel.evaluation.hashing import serve_command

    monkeypatch.setattr(Server, "serve_forever", lambda self: seen.append(self))
    seen: list[Server] = []
    serve_command.run(HashServeConfig(codes=site.codes, port=0, host="0.0.0.0"))
    assert "whoever reaches this machine" in capsys.readouterr().out
    (server,) = seen
    for host in ("192.168.0.7:8000", "[fe80::1]", "localhost", socket.gethostname()):
        assert server.hosts.knows(host), host
    for host in ("evil.example", "192.168.0.7.evil.example", "", "a/b", "[::1"):
        assert not server.hosts.knows(host), host


def test_uploads_that_are_no_photographs(site: Site, jpeg: Callable[..., bytes]) -> None:
    wide = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(wide, "PNG")
    gif = io.BytesIO()
    Image.new("L", (9, 9)).save(gif, "GIF")
    for body, status, words in (
        (b"hello", 415, "not a JPEG, PNG or WebP photograph"),
        (b"", 415, "not a JPEG, PNG or WebP photograph"),
        (gif.getvalue(), 415, "not a JPEG, PNG or WebP photograph"),
        (jpeg(1)[:300], 415, "cannot be read"),
        (wide.getvalue(), 413, "50 megapixels (10000 x 5000)"),
    ):
        code, _, told = site.ask("/search", method="POST", body=body)
        assert (code, list(told)) == (status, ["error"])
        assert words in told["error"]
    assert site.ask("/search", method="POST", body=jpeg(1))[0] == 200
    assert site.ask("/page.js", method="POST", body=jpeg(1))[0] == 404


def test_a_photograph_of_as_many_pixels_as_may_be() -> None:
    fits, over = (io.BytesIO(), io.BytesIO())
    Image.new("1", (8000, MOST_PIXELS // 8000)).save(fits, "PNG")
    Image.new("1", (8000, MOST_PIXELS // 8000 + 1)).save(over, "PNG")
    assert decode_upload(fits.getvalue()).size == (8000, 5000)
    with pytest.raises(RefusedError, match="40 megapixels"):
        decode_upload(over.getvalue())


def test_uploads_that_are_too_large_or_tell_no_length(site: Site) -> None:
    status, _, told = site.ask("/search", method="POST", body=bytes(MOST_BYTES + 1))
    assert status == 413
    assert "larger than 20 MB" in told["error"]
    for headers in ({"Content-Length": "many"}, {"Content-Length": "-1"}, {"Transfer_Encoding": "chunked"}):
        assert site.ask("/search", method="POST", **headers)[0] == 411


def test_an_upload_that_is_cut_off_keeps_nobody_waiting(site: Site, jpeg: Callable[..., bytes]) -> None:
    for _ in range(http_file.AT_ONCE + 1):
        with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=30) as connection:
            connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert site.ask("/search", method="POST", body=jpeg(1))[0] == 200


def test_uploads_at_once_are_answered_each_by_its_own(site: Site, jpeg: Callable[..., bytes]) -> None:
    def found(number: int) -> list[tuple[int, int]]:
        status, _, told = site.ask("/search", method="POST", body=jpeg(number, width=400, height=300))
        assert status == 200
        return [(row["row"], row["hamming"]) for row in told["found"]]

    numbers = [1, 2, 3, 4, 5, 6]
    alone = [found(number) for number in numbers]
    assert len({str(one) for one in alone}) > 1
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(found, numbers)) == alone


def test_too_many_uploads_are_asked_to_wait(
    site: Site, jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_file, "PATIENCE", 0.05)
    for _ in range(http_file.AT_ONCE):
        site.server.uploads.acquire()
    assert site.ask("/search", method="POST", body=jpeg(1))[0] == 503
    assert site.ask("/search?row=1")[0] == 200
    site.server.uploads.release()
    assert site.ask("/search", method="POST", body=jpeg(1))[0] == 200


def test_a_failure_of_ours_tells_the_client_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(row: int) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(site.server.answers, "by_row", fail)
    status, _, told = site.ask("/search?row=1")
    assert status == 500
    assert "secret" not in json.dumps(told)
    assert "a secret" in capsys.readouterr().err


def test_without_backbone_or_shards_keys_still_find(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.codes.parent / "backbone").rename(site.codes.parent / "elsewhere")
    site.data.rename(site.data.with_name("moved"))
    server = make_server(HashServeConfig(codes=site.codes, port=0))
    server.server_close()
    out = capsys.readouterr().out
    assert "no search by photograph, by key alone: " in out
    assert "no pictures: " in out
    assert 'type="file"' not in server.texts["/"][1]
    assert 'data-pictures="no"' in server.texts["/"][1]
    assert len(server.answers.by_row(1)["found"]) == 10
    for refused in (lambda: server.answers.by_photograph(b""), lambda: server.answers.thumbnail(0)):
        with pytest.raises(RefusedError):
            refused()
    moved = {"data": str(site.data.with_name("moved")), "backbone": str(site.codes.parent / "elsewhere")}
    again = make_server(HashServeConfig(codes=site.codes, port=0, **moved))  # type: ignore[arg-type]
    again.server_close()
    assert again.answers.thumbnail(0)
    with pytest.raises(UserError):
        make_server(HashServeConfig(codes=site.codes, port=0, backbone="nowhere/at/all"))


def test_other_photographs_than_the_codes_are_not_shown(
    site: Site, foreign_shards: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    codes = Codes.load(site.codes)
    others = foreign_shards(shards=3, count=5, folder="others")
    with pytest.raises(UserError, match="holds other photographs"):
        open_photographs(codes, str(others))
    foreign_shards(shards=3, count=5)
    assert open_photographs(codes, None) is None
    assert "holds other photographs by now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"), [({"port": -1}, "port must be"), ({"port": 65536}, "port must be"), ({"top": 0}, "top must")]
)
def test_impossible_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HashServeConfig(codes=Path("a"), **settings)
