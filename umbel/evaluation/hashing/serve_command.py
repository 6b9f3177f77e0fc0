"""`umbel hash serve CODES`: a local page where a photograph is dropped and the nearest ones are seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from umbel.backbones import Backbone
from umbel.evaluation.hashing.codes import Codes
from umbel.evaluation.hashing.finder import FLAT_FROM, Finder
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.queries import codes_backbone, codes_hasher
from umbel.evaluation.hashing.rerank import Ranking
from umbel.evaluation.hashing.serve_answers import Answers
from umbel.evaluation.hashing.serve_hosts import is_loopback
from umbel.evaluation.hashing.serve_http import CSS, HTML, JS, SVG, Server
from umbel.evaluation.hashing.serve_page import icon, page
from umbel.evaluation.hashing.serve_photographs import open_photographs
from umbel.evaluation.hashing.serve_script import SCRIPT
from umbel.evaluation.hashing.serve_style import STYLE
from umbel.evaluation.hashing.stored import Hasher
from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class HashServeConfig:
    """Search by photograph in a browser, on this machine."""

    codes: Annotated[Path, tyro.conf.Positional]
    """A folder of `umbel hash encode`."""
    port: int = 8000
    """Where it listens; 0: any free one."""
    host: str = "127.0.0.1"
    """Address that it listens on; any other than this machine's own lets others in."""
    top: int = 12
    """Photographs in an answer."""
    data: str | None = None
    """The shards, where they lie elsewhere by now."""
    backbone: str | None = None
    """The backbone, where it lies elsewhere by now."""
    coder: Path | None = None
    """The coder's folder, where it lies elsewhere by now."""
    exact: bool = False
    """Compare all codes, also where there is an index."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, not {self.port}")
        if not 1 <= self.top <= 1000:
            raise ValueError(f"top must be between 1 and 1000, not {self.top}")


def run(config: HashServeConfig) -> None:
    """Serve until it is interrupted.

    Raises:
        UserError: no codes, or the address is taken.
        KeyboardInterrupt: Ctrl-C.
    """
    server = make_server(config)
    with server:
        host = f"[{config.host}]" if ":" in config.host else config.host
        if not is_loopback(config.host):
            say(f"listening on {config.host}: whoever reaches this machine can search here and see these photographs.")
        say(f"http://{host}:{server.server_port}/  (Ctrl-C ends it)")
        server.serve_forever()


def make_server(config: HashServeConfig) -> Server:
    """The server, bound and ready.

    Raises:
        UserError: see `run`.
    """
    codes = Codes.load(config.codes)
    if not len(codes):
        raise UserError(f"{config.codes} holds no photographs to be found: encode some.")
    photographs = open_photographs(codes, config.data)
    embedder = _embedder(codes, config)
    ranking = Ranking(Finder(codes, config.codes, exact=config.exact, queries=FLAT_FROM))
    reader = _reader(codes, config)
    answers = Answers(ranking, photographs, embedder, config.top, reader)
    can = {"photographs": photographs is not None, "uploads": embedder is not None, "words": reader is not None}
    texts = {
        "/": (HTML, page(codes, config.codes, **can)),
        "/icon.svg": (SVG, icon()),
        "/page.css": (CSS, STYLE),
        "/page.js": (JS, SCRIPT),
    }
    try:
        return Server(config.host, config.port, answers, texts)
    except OSError as error:
        raise UserError(
            f"{config.host}, port {config.port} cannot be listened on ({error.strerror or error}): give another "
            "--port, or --host."
        ) from error


def _reader(codes: Codes, config: HashServeConfig) -> Hasher | None:
    """The coder, if it reads texts."""
    if codes.provenance.get("coder", {}).get("method") != PairedCoder.method:
        return None
    try:
        hasher = codes_hasher(codes, config.coder)
    except UserError:  # told where photographs are embedded
        return None
    return hasher if isinstance(hasher, PairedCoder) and hasher.reads == "text" else None


def _embedder(codes: Codes, config: HashServeConfig) -> tuple[Hasher, Backbone] | None:
    """Coder and backbone; None, told why, where there are none (those that were asked for by name must be there)."""
    try:
        return codes_hasher(codes, config.coder), codes_backbone(codes, config.backbone, config.coder)
    except UserError as error:
        if config.backbone is not None or config.coder is not None:
            raise
        say(f"no search by photograph, by key alone: {error}")
        return None
