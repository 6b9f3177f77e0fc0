"""The local page in headless Chromium, under its own policy, driven over its debugging pipe."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.embed import embed
from umbel.evaluation.hashing import ITQ, save_hasher
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.encode_command import HashEncodeConfig
from umbel.evaluation.hashing.encode_command import run as encode
from umbel.evaluation.hashing.serve_command import HashServeConfig, make_server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
)
SCRIPT = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"
MOVE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Moves the pipe's ends to where Chromium looks for them."""
WIDTHS = (1280, 390)
AXE = os.environ.get("UMBEL_AXE", "")
"""A copy of axe.min.js, where its own rules shall be run."""


class Browser:
    """Chromium, told what to do over a pipe (file descriptors 3 and 4)."""

    def __init__(self, chromium: str, profile: Path) -> None:
        to_read, self.to_write = os.pipe()
        self.from_read, to_answer = os.pipe()
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        ends = (str(to_read), str(to_answer))
        moved = [sys.executable, "-c", MOVE, *ends, *command]
        self.process = subprocess.Popen(moved, pass_fds=(to_read, to_answer), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_answer)
        self.left, self.number, self.events = b"", 0, list[dict[str, Any]]()
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self.session = ""
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        session = {"sessionId": self.session} if getattr(self, "session", "") else {}
        told = json.dumps({"id": self.number, "method": method, "params": arguments} | session)
        os.write(self.to_write, told.encode() + b"\0")
        while True:
            while b"\0" not in self.left:
                piece = os.read(self.from_read, 1 << 16)
                assert piece, "Chromium ended"
                self.left += piece
            message, _, self.left = self.left.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def run(self, body: str) -> Any:
        """The value of the body of an async function on the page."""
        expression = f"(async () => {{ {body} }})()"
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def wait(self, condition: str) -> None:
        """Until a condition holds on the page."""
        deadline = time.monotonic() + 30
        while not self.run(f"return {condition}"):
            assert time.monotonic() < deadline, (condition, self.run("return document.body.innerText"))
            time.sleep(0.02)

    def put(self, file: Path) -> None:
        """Pick a file in the page's field, as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#photograph")["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            told = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
            self.call("Input.dispatchKeyEvent", **told, **(text if kind == "keyDown" else {}))

    def complaints(self) -> list[str]:
        """What the console said: violations of the policy, errors of the script."""
        said = [event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        return [json.dumps(event["params"])[:300] for event in said]

    def close(self) -> None:
        os.close(self.to_write)
        os.close(self.from_read)
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with contextlib.closing(Browser(chromium, tmp_path_factory.mktemp("profile"))) as one:
        yield one


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes of synthetic plants by a tiny random backbone; one species bears a script as its name."""
    root = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        make_synthetic(MakeSyntheticConfig(out=root / "shards", train=24, test=8, size=48, workers=1))
        torch.manual_seed(0)
        config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=0)
        sizes = {"arguments": model_arguments(config, 16), "image_size": 16, "num_features": 16}
        card = ModelCard(architecture=config.name, mean=(0.5,) * 3, std=(0.5,) * 3, **sizes)  # type: ignore[arg-type]
        write_timm_folder(root / "backbone", build(config, 16).state_dict(), card)
        shards = open_shards(str(root / "shards"))
        made = embed(load(str(root / "backbone")), shards, device="cpu")
    evil = (SCRIPT, *made.classes[1:])
    type(made)(**(vars(made) | {"classes": evil, "label": np.arange(len(made)) % 2})).save(root / "embeddings")
    save_hasher(root / "coder", ITQ(12).fit(made.features), {})
    encode(HashEncodeConfig(coder=root / "coder", embeddings=root / "embeddings", out=root / "garden"))
    return root / "garden"


@pytest.fixture(scope="module")
def url(codes: Path) -> Iterator[str]:
    with make_server(HashServeConfig(codes=codes, port=0, top=6)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


FOUND = "document.querySelectorAll('#found li').length === 6 && document.querySelector('#status').textContent"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_photograph_finds_its_neighbors(width: int, browser: Browser, url: str, codes: Path, tmp_path: Path) -> None:
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "mine.jpg")
    browser.open(url, width)
    browser.put(tmp_path / "mine.jpg")
    browser.wait(FOUND)
    body = """
      await Promise.all([...document.images].map((image) => image.decode()));
      return {
        status: document.querySelector("#status").textContent, focus: document.activeElement.id,
        query: document.querySelector("#query").innerText, title: document.title,
        sizes: [...document.images].map((image) => image.naturalWidth),
        names: [...document.querySelectorAll("#found .name")].map((one) => one.textContent),
        bits: [...document.querySelectorAll("#found .bits")].map((one) => one.textContent),
        fills: [...document.querySelectorAll("#found .fill")].map((one) =>
          one.getBoundingClientRect().width / one.parentElement.getBoundingClientRect().width),
        wide: [document.documentElement.scrollWidth, innerWidth],
      };
    """
    found = browser.run(body)
    assert found["status"].startswith("The 6 nearest of 32 photographs, found in ")
    assert found["focus"] == "heading"
    assert found["query"] == "mine.jpg"
    assert found["sizes"][0] == 90
    assert found["sizes"][1:] == [48] * 6
    # The script is a name like any other: text.
    assert SCRIPT in found["names"]
    assert found["title"] == "Nearest photographs: garden"
    counts = [int(text.split()[0]) for text in found["bits"]]
    assert counts == sorted(counts)
    np.testing.assert_allclose(found["fills"], [1 - count / 12 for count in counts], atol=0.01)
    assert found["wide"] == [width, width]
    assert browser.complaints() == []


def test_the_keyboard_reaches_everything(browser: Browser, url: str, codes: Path) -> None:
    browser.open(url, 1280)
    reached = []
    for _ in range(4):
        browser.press("Tab")
        reached.append(browser.run("return document.activeElement.id || document.activeElement.type"))
    assert reached == ["photograph", "key", "submit", "example"]
    browser.press("Enter")
    browser.wait(FOUND)
    first = Codes.load(codes).keys[0]
    assert first in browser.run("return document.querySelector('#query').innerText")
    keys = "return [...document.querySelectorAll('#found .key')].map((one) => one.textContent)"
    before = browser.run(keys)
    assert first not in before
    # The answer's heading has the focus: one step further is the first photograph's own search.
    browser.press("Tab")
    assert browser.run("return document.activeElement.className") == "more"
    assert before[0] in browser.run("return document.activeElement.ariaLabel")
    browser.press("Enter")
    browser.wait(f"document.querySelector('#query').innerText.includes({json.dumps(before[0])})")
    assert before[0] not in browser.run(keys)
    assert browser.complaints() == []


def test_bad_files_are_answered_in_a_sentence(browser: Browser, url: str, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    (tmp_path / "large.jpg").write_bytes(bytes((20 << 20) + 1))
    Image.new("1", (10_000, 5_000)).save(tmp_path / "wide.png")
    browser.open(url, 390)
    for name, words in (
        ("notes.jpg", "not a JPEG, PNG or WebP photograph"),
        ("wide.png", "50 megapixels"),
        ("large.jpg", "larger than 20 MB"),
    ):
        browser.put(tmp_path / name)
        browser.wait(f"document.querySelector('#error').textContent.includes({json.dumps(words)})")
        assert browser.run("return document.querySelector('#status').textContent") == ""
        assert browser.run("return document.querySelector('#answer').hidden")
    browser.run("document.querySelector('#key').value = 'nothing'; document.querySelector('#by-key').requestSubmit()")
    browser.wait("document.querySelector('#error').textContent.includes('no photograph with the key')")
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]


def test_a_dropped_photograph_is_searched_for(browser: Browser, url: str, tmp_path: Path) -> None:
    browser.open(url, 1280)
    body = """
      const canvas = new OffscreenCanvas(40, 40);
      canvas.getContext("2d").fillRect(5, 5, 20, 20);
      const data = new DataTransfer();
      data.items.add(new File([await canvas.convertToBlob()], "<b>dropped</b>.png", {type: "image/png"}));
      document.querySelector("footer").dispatchEvent(
        new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    """
    browser.run(body)
    browser.wait(FOUND)
    assert browser.run("return document.querySelector('#query strong').textContent") == "<b>dropped</b>.png"


@pytest.mark.parametrize("dark", [False, True])
def test_what_axe_asks_of_such_a_page(dark: bool, browser: Browser, url: str) -> None:
    """Names, headings, landmarks and contrast, as far as they can be told without axe; axe too, where it is at hand."""
    browser.open(url, 390, dark=dark)
    browser.run("document.querySelector('#example').click()")
    browser.wait(FOUND)
    body = """
      const luminance = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
          .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : color;
      };
      const contrast = (element) => {
        const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
        return (pair[0] + 0.05) / (pair[1] + 0.05);
      };
      const labeled = (field) => field.labels.length > 0;
      const texts = [...document.querySelectorAll("h1, h2, p, label, button, footer, input")]
        .filter((element) => element.checkVisibility());
      return {
        pale: texts.filter((element) => contrast(element) < 4.5).map((element) => element.outerHTML.slice(0, 90)),
        headings: [...document.querySelectorAll("h1, h2, h3")].map((head) => Number(head.tagName[1])),
        nameless: [...document.querySelectorAll("button, img, a")]
          .filter((element) => !(element.ariaLabel || element.alt || element.textContent).trim()).length,
        unlabeled: [...document.querySelectorAll("input")].filter((field) => !labeled(field)).length,
        landmarks: ["header", "main", "footer"].map((name) => document.querySelectorAll("body > " + name).length),
        live: [...document.querySelectorAll("[role=status], [role=alert]")].length,
        language: document.documentElement.lang,
        small: [...document.querySelectorAll("button, input")].filter((element) =>
          element.getBoundingClientRect().height < 24).map((element) => element.outerHTML.slice(0, 90)),
      };
    """
    expected = {"pale": [], "headings": [1, 2, 2], "nameless": 0, "unlabeled": 0, "landmarks": [1, 1, 1]}
    assert browser.run(body) == expected | {"live": 2, "language": "en", "small": []}
    if AXE:
        told = browser.run(f"{Path(AXE).read_text()}; return (await axe.run()).violations")
        assert [(one["id"], [node["html"][:90] for node in one["nodes"]]) for one in told] == []


def test_ctrl_c_ends_it_as_every_command(codes: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = start(codes, port)
        _, err = refused.communicate(timeout=120)
        assert refused.returncode == 2
        assert f"port {port} cannot be listened on" in err
    process = start(codes, 0)
    assert process.stdout is not None
    while "Ctrl-C" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "umbel: interrupted."


def start(codes: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "umbel", "hash", "serve", str(codes), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
