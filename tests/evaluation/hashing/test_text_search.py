"""Photographs found by words: the command, the measures, and the local page's server, on clusters with names."""

import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import Codes, load_hasher
from umbel.evaluation.hashing.evaluate import make_task
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.serve_command import HashServeConfig, make_server
from umbel.evaluation.hashing.text_retrieval import share_of_nearest

CLASSES = ("Rosa canina", "Salvia pratensis", "Thymus vulgaris", "Quercus robur")


@pytest.fixture
def made(tmp_path: Path, umbel: Callable[..., Any]) -> Path:
    """Embeddings in four clusters, a coder of them and their names, and the codes."""
    generator = np.random.default_rng(0)
    label = np.arange(160) % 4
    features = 2 * generator.normal(size=(4, 12))[label] + generator.normal(size=(160, 12))
    Embeddings(
        features=features.astype(np.float32),
        label=label,
        split=(np.arange(160) >= 120).astype(np.int64),
        keys=tuple(f"plant_{row:03d}" for row in range(160)),
        splits=("train", "test"),
        classes=CLASSES,
    ).save(tmp_path / "embeddings")
    fit = ["hash", "fit", tmp_path / "embeddings", "--pairs", "names", "--bits", 16, "--device", "cpu"]
    assert umbel(*fit, "--crovca.least-steps", 200, "--out", tmp_path / "coder").code == 0
    encode = ["hash", "encode", tmp_path / "coder", "--embeddings", tmp_path / "embeddings"]
    assert umbel(*encode, "--out", tmp_path / "codes").code == 0
    return tmp_path


def test_words_find_their_species(made: Path, umbel: Callable[..., Any]) -> None:
    code, out, err = umbel("hash", "search", made / "codes", "--text", "wild thymus", "--top", 5)
    assert code == 0, err
    assert out.count("Thymus vulgaris") >= 4
    code, out, err = umbel(
        *("hash", "search", made / "codes", "--text", "Rosa canina", "salvia", "--top", 3, "--json"),
        *("--rerank", "asymmetric"),
    )
    assert code == 0, err
    told = json.loads(out)
    assert [answer["query"] for answer in told] == ["Rosa canina", "salvia"]
    assert {row["name"] for row in told[0]["found"]} == {"Rosa canina"}
    assert {row["name"] for row in told[1]["found"]} == {"Salvia pratensis"}


def test_what_words_cannot_do_is_a_sentence(made: Path, umbel: Callable[..., Any], refused: Callable[..., str]) -> None:
    search = ["hash", "search", made / "codes", "--text"]
    assert "there is no word in '...'" in refused(*search, "...")
    assert "which words have none of" in refused(*search, "Rosa", "--rerank", "float")
    assert "give one of --key, --photo, --text" in refused(*search, "Rosa", "--key", "plant_001")
    plain = ["hash", "fit", made / "embeddings", "--method", "itq", "--bits", 8, "--out", made / "itq"]
    assert umbel(*plain).code == 0
    encode = ["hash", "encode", made / "itq", "--embeddings", made / "embeddings", "--out", made / "itq-codes"]
    assert umbel(*encode).code == 0
    assert "these codes know no words" in refused("hash", "search", made / "itq-codes", "--text", "Rosa")


def test_words_are_measured_beside_what_they_are_rounded_from(made: Path, umbel: Callable[..., Any]) -> None:
    evaluate = ["hash", "evaluate", made / "codes", made / "embeddings"]
    code, out, err = umbel(*evaluate)
    assert code == 0, err
    assert "the words of its species are nearest to" in out
    assert "left out: itq makes at most 12 bits of features of width 12, not 16." in out
    told = json.loads(umbel(*evaluate, "--json").out)
    rows = {row["distance"]: row for row in told["scores"] if row["name"].endswith(", by words")}
    assert set(rows) == {"Hamming", "asymmetric", "cosine"}
    assert rows["cosine"]["bits"] is None
    assert all(row["map"] > 0.7 for row in rows.values())
    (zero_shot,) = told["zero_shot"]
    assert zero_shot["species"] == 4
    embeddings, coder = Embeddings.load(made / "embeddings"), load_hasher(made / "coder")[0]
    assert isinstance(coder, PairedCoder)
    words = coder.text_logits([f"a photograph of {name}" for name in CLASSES])
    task = make_task(embeddings.label, embeddings.split, embeddings.splits)
    right, by_logits = [], []
    for row in task.queries:
        own = coder.logits(embeddings.features[row : row + 1])[0]
        distance = [int(((own > 0) != (text > 0)).sum()) for text in words]
        nearest = [label for label in range(4) if distance[label] == min(distance)]
        right.append((embeddings.label[row] in nearest) / len(nearest))
        cosine = [own @ text / np.linalg.norm(text) for text in words]
        by_logits.append(np.argmax(cosine) == embeddings.label[row])
    assert zero_shot["by_codes"] == pytest.approx(np.mean(right))
    assert zero_shot["by_logits"] == pytest.approx(np.mean(by_logits))
    assert zero_shot["by_codes"] > 0.7


def test_ties_count_for_their_share() -> None:
    codes = np.array([[True, True, False], [False, False, False]])
    others = np.array([[True, True, True], [True, False, False], [False, True, False]])
    assert share_of_nearest(codes, others, np.array([0, 1])).tolist() == [pytest.approx(1 / 3), 0.5]
    assert share_of_nearest(codes[1:], others, np.array([0])).tolist() == [0]


def test_the_page_takes_words_where_the_coder_knows_them(made: Path) -> None:
    with make_server(HashServeConfig(codes=made / "codes", port=0, top=4)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()

        def ask(path: str) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read().decode()
            return response.status, json.loads(content) if path != "/" else content

        assert 'id="by-text"' in ask("/")[1]
        status, told = ask(f"/search?text={quote('Rosa canina')}")
        assert status == 200
        assert told["query"] == {"name": None, "key": "Rosa canina", "row": None}
        assert {row["name"] for row in told["found"]} == {"Rosa canina"}
        assert ask(f"/search?text={quote('!?')}") == (400, {"error": "There is no word in '!?'."})
        assert ask(f"/search?text={'rosa' * 300}") == (400, {"error": "Say it in at most 1,000 letters."})
        server.shutdown()
        thread.join()


def test_the_page_asks_for_no_words_where_the_coder_knows_none(
    made: Path, umbel: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert umbel("hash", "fit", made / "embeddings", "--method", "itq", "--bits", 8, "--out", made / "itq").code == 0
    encode = ["hash", "encode", made / "itq", "--embeddings", made / "embeddings", "--out", made / "plain"]
    assert umbel(*encode).code == 0
    assert len(Codes.load(made / "plain")) == 160
    with make_server(HashServeConfig(codes=made / "plain", port=0)) as server:
        assert server.answers.reader is None
        assert 'id="by-text"' not in server.texts["/"][1]
