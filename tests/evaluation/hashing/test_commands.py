"""The commands from end to end on small random embeddings and on a random backbone's photographs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from umbel import cli
from umbel.backbones import load
from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.reader import ShardReader
from umbel.evaluation.embed import embed
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing import Codes, load_hasher, unpack
from umbel.evaluation.hashing.evaluate_command import HashEvaluateConfig
from umbel.evaluation.hashing.fit_command import HashFitConfig
from umbel.evaluation.hashing.search_command import HashSearchConfig

Umbel = Callable[..., Any]
Refused = Callable[..., str]
CLASSES = ("Rosa", "Salvia", "Thymus")
HOME = "umbel.evaluation.hashing"


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fit", "encode", "search", "evaluate"):
        monkeypatch.setitem(cli.COMMANDS, f"hash {name}", (f"{HOME}.{name}_command:run", "help"))


def make_embeddings(folder: Path, *, count: int = 90, width: int = 12, seed: int = 0, **provenance: Any) -> Path:
    """Three clusters; two thirds of the photographs are train, the others test, one of each without a label."""
    generator = np.random.default_rng(seed)
    label = np.arange(count) % 3
    features = 2 * generator.normal(size=(3, width))[label] + generator.normal(size=(count, width))
    label[[0, count - 1]] = -1
    Embeddings(
        features=features.astype(np.float32),
        label=label,
        split=(np.arange(count) >= count * 2 // 3).astype(np.int64),
        keys=tuple(f"plant_{row:03d}" for row in range(count)),
        splits=("train", "test"),
        classes=CLASSES,
        provenance=provenance,
    ).save(folder)
    return folder


@pytest.fixture
def made(tmp_path: Path, umbel: Umbel) -> Path:
    """A folder with embeddings, an ITQ coder and its codes."""
    make_embeddings(tmp_path / "embeddings")
    for arguments in (
        ["fit", tmp_path / "embeddings", "--method", "itq", "--bits", 10, "--out", tmp_path / "coder"],
        ["encode", tmp_path / "coder", "--embeddings", tmp_path / "embeddings", "--out", tmp_path / "codes"],
    ):
        ending = umbel("hash", *arguments)
        assert ending.code == 0, ending.err
    return tmp_path


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A tiny ViT with random weights."""
    config = BackboneConfig(name="vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8, registers=0)
    torch.manual_seed(0)
    arguments = model_arguments(config, 16)
    card = ModelCard(
        architecture=config.name, arguments=arguments, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, num_features=16
    )
    write_timm_folder(tmp_path / "backbone", build(config, 16).state_dict(), card)
    return tmp_path / "backbone"


@pytest.mark.parametrize("method", ["itq", "pca", "pca-rotation", "lsh"])
def test_baselines_are_fitted_on_all_but_the_queries(method: str, tmp_path: Path, umbel: Umbel) -> None:
    embeddings = Embeddings.load(make_embeddings(tmp_path / "embeddings"))
    code, out, err = umbel(
        "hash", "fit", tmp_path / "embeddings", "--method", method, "--bits", 5, "--out", tmp_path / "c"
    )
    assert code == 0, err
    assert "fitted on 60 photographs" in out
    hasher, told = load_hasher(tmp_path / "c")
    assert (hasher.method, hasher.bits, hasher.width) == (method, 5, 12)
    np.testing.assert_allclose(hasher.tensors()["mean"], embeddings.features[:60].mean(0), rtol=1e-5)
    assert told["photographs"] == 60


def test_codes_are_the_coders(made: Path) -> None:
    codes, embeddings = Codes.load(made / "codes"), Embeddings.load(made / "embeddings")
    hasher, _ = load_hasher(made / "coder")
    np.testing.assert_array_equal(unpack(codes.packed, 10), hasher.encode(embeddings.features))
    assert codes.keys == embeddings.keys
    assert codes.provenance["coder"]["method"] == "itq"


def test_the_same_command_again_says_that_it_is_there(made: Path, umbel: Umbel, content: Callable[..., Any]) -> None:
    before = content(made)
    fit = ["hash", "fit", made / "embeddings", "--method", "itq", "--out", made / "coder", "--bits"]
    encode = ["hash", "encode", made / "coder", "--embeddings", made / "embeddings", "--out", made / "codes"]
    assert "already holds this coder" in umbel(*fit, 10).out
    assert "already holds these codes" in umbel(*encode).out
    assert content(made) == before


def test_other_settings_or_inputs_are_refused_unless_forced(
    made: Path, umbel: Umbel, refused: Refused, content: Callable[..., Any]
) -> None:
    fit = ["hash", "fit", made / "embeddings", "--method", "itq", "--out", made / "coder", "--bits"]
    encode = ["hash", "encode", made / "coder", "--embeddings", made / "embeddings", "--out", made / "codes"]
    before = content(made)
    assert "bits: 10 there, 9 now" in refused(*fit, 9)
    assert content(made) == before
    assert umbel(*fit, 9, "--force").code == 0
    assert load_hasher(made / "coder.old-1")[0].bits == 10
    assert load_hasher(made / "coder")[0].bits == 9
    assert "coder: " in refused(*encode)
    make_embeddings(made / "others", seed=1)
    assert "embeddings: " in refused("hash", "fit", made / "others", *fit[3:], 9)
    (made / "notes").mkdir()
    (made / "notes" / "mine.txt").write_text("mine")
    assert "holds other files" in refused(*encode[:-1], made / "notes")


def test_search_by_key(made: Path, umbel: Umbel) -> None:
    codes = Codes.load(made / "codes")
    code, out, err = umbel("hash", "search", made / "codes", "--key", "plant_004", "--top", 7, "--json")
    assert code == 0, err
    (answer,) = json.loads(out)
    assert answer["query"] == "plant_004"
    found = answer["found"]
    bits = unpack(codes.packed, 10)
    distances = (bits != bits[4]).sum(1)
    expected = [row for row in np.argsort(distances, kind="stable") if row != 4][:7]
    assert [row["key"] for row in found] == [codes.keys[row] for row in expected]
    assert [row["distance"] for row in found] == distances[expected].tolist()
    assert [row["hamming"] for row in found] == distances[expected].tolist()
    for row, number in zip(found, expected, strict=True):
        label = codes.label[number]
        assert row["name"] == (CLASSES[label] if label >= 0 else None)
        assert row["split"] == ("train" if number < 60 else "test")
    table = umbel("hash", "search", made / "codes", "--key", "plant_004").out.splitlines()
    assert table[0].startswith("search: exact, all 90 codes")
    assert len(table) == 12
    assert found[0]["key"] in table[2]


def test_evaluate(made: Path, umbel: Umbel) -> None:
    code, out, err = umbel(
        "hash", "evaluate", made / "codes", made / "embeddings", "--baselines", "itq", "lsh", "--out", made / "t.json"
    )
    assert code == 0, err
    assert "mAP@59" in out  # K = 1000 is more than the labeled database holds
    assert "29 queries" in out
    told = json.loads((made / "t.json").read_text())
    rows = {(row["name"], row["distance"]): row for row in told["scores"]}
    assert [distance for _, distance in rows] == ["cosine", "cosine"] + 3 * ["Hamming", "asymmetric"]
    # ITQ fitted again on the labeled database is not the very coder, but near.
    ours, beside = rows[str(made / "codes"), "Hamming"], rows["itq beside", "Hamming"]
    assert ours["bits"] == beside["bits"] == 10
    assert ours["map"] == pytest.approx(beside["map"], abs=0.1)
    assert 0.6 < ours["map"] <= 1
    assert f"{100 * ours['map']:5.1f}" in out


def test_evaluate_replaces_its_own_result_alone(made: Path, umbel: Umbel, refused: Refused) -> None:
    evaluate = ["hash", "evaluate", made / "codes", "--out"]
    for _ in range(2):
        assert umbel(*evaluate, made / "t.json").code == 0
    (made / "recipe.yaml").write_text("format: 1\n")
    for out in (made / "recipe.yaml", made / "codes"):
        assert "is no result of `umbel hash evaluate`" in refused(*evaluate, out)
    assert (made / "recipe.yaml").read_text() == "format: 1\n"


def test_evaluate_codes_or_embeddings_alone(made: Path, umbel: Umbel) -> None:
    alone = json.loads(umbel("hash", "evaluate", made / "codes", "--json").out)
    assert [row["distance"] for row in alone["scores"]] == ["Hamming"]
    told = json.loads(umbel("hash", "evaluate", made / "embeddings", "--bits", 6, "--k", 5, "--json").out)
    assert [row["bits"] for row in told["scores"]] == [None, None, 6, 6]
    assert told["k"] == 5


def test_evaluate_goes_on_without_the_coder(made: Path, umbel: Umbel) -> None:
    (made / "coder").rename(made / "elsewhere")
    code, out, _ = umbel("hash", "evaluate", made / "codes", made / "embeddings")
    assert code == 0
    assert "no asymmetric search" in out


def test_crovca_on_photographs_and_a_photograph_as_query(
    tmp_path: Path,
    backbone: Path,
    foreign_shards: Callable[..., Path],
    umbel: Umbel,
    picture: Callable[..., Image.Image],
) -> None:
    data = foreign_shards(shards=3, count=8)
    foreign_shards(shards=1, count=4, split="test")
    embed(load(backbone), open_shards(str(data)), device="cpu").save(tmp_path / "embeddings")
    settings = [
        "--bits",
        9,
        "--device",
        "cpu",
        "--crovca.batch",
        8,
        "--crovca.least-steps",
        0,
        "--photographs.workers",
        0,
    ]
    code, out, err = umbel("hash", "fit", backbone, "--data", data, "--out", tmp_path / "coder", *settings)
    assert code == 0, err
    assert "crovca, 9 bits, fitted on 24 photographs" in out
    # The embeddings name the same backbone and data: the same coder is asked for.
    assert "already holds" in umbel("hash", "fit", tmp_path / "embeddings", "--out", tmp_path / "coder", *settings).out
    encode = [
        "hash",
        "encode",
        tmp_path / "coder",
        "--embeddings",
        tmp_path / "embeddings",
        "--out",
        tmp_path / "codes",
    ]
    assert umbel(*encode).code == 0
    picture(5).save(tmp_path / "mine.png")
    search = ["hash", "search", tmp_path / "codes", "--photo", tmp_path / "mine.png", "--top", 3, "--json"]
    for more in ([], ["--rerank", "asymmetric"], ["--rerank", "float", "--shortlist", 24]):
        code, out, err = umbel(*search, *more)
        assert code == 0, err
        assert len(json.loads(out)[0]["found"]) == 3
    # By float alone (a shortlist of all) the photograph that is in the set is its own nearest.
    (tmp_path / "known.jpg").write_bytes(ShardReader(open_shards(str(data))).read(12, "jpg"))
    known = [*search[:4], tmp_path / "known.jpg", *search[5:], "--rerank", "float", "--shortlist", 28]
    nearest = json.loads(umbel(*known).out)[0]["found"][0]
    assert nearest["key"] == open_shards(str(data)).key(12)
    assert nearest["distance"] == pytest.approx(0, abs=1e-6)
    assert nearest["hamming"] == 0
    assert umbel("hash", "evaluate", tmp_path / "codes", tmp_path / "embeddings").code == 0
    # Other weights under the backbone's name would give distances that mean nothing.
    weights = (backbone / "model.safetensors").read_bytes()
    (backbone / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    assert "other weights" in umbel(*search).err


def test_crovca_by_labels_makes_other_codes_and_wants_labels(
    tmp_path: Path,
    backbone: Path,
    foreign_shards: Callable[..., Path],
    jpeg: Callable[..., bytes],
    write_tar: Callable[..., Path],
    umbel: Umbel,
    refused: Refused,
) -> None:
    data = foreign_shards(shards=3, count=8)
    settings = [
        "--bits",
        9,
        "--device",
        "cpu",
        "--crovca.batch",
        8,
        "--crovca.least-steps",
        0,
        "--photographs.workers",
        0,
    ]
    fit = ["hash", "fit", backbone, "--data", data, *settings, "--out"]
    assert umbel(*fit, tmp_path / "own").code == 0
    code, out, err = umbel(*fit, tmp_path / "labeled", "--supervised")
    assert code == 0, err
    assert "labels of 3 classes on 24 photographs" in out
    coders = [(tmp_path / name / "coder.safetensors").read_bytes() for name in ("own", "labeled")]
    assert coders[0] != coders[1]
    assert "was made otherwise" in refused(*fit, tmp_path / "own", "--supervised")
    write_tar(tmp_path / "bare" / "train-000000.tar", {f"plant_{n}.jpg": jpeg(n) for n in range(9)})
    bare = ["hash", "fit", backbone, "--data", tmp_path / "bare", *settings, "--out", tmp_path / "o"]
    assert "none of the photographs has a label" in refused(*bare, "--supervised")
    assert "supervised is of the method crovca" in refused(*fit, tmp_path / "o", "--supervised", "--method", "itq")
    assert "label_fields (genus) are for supervised" in refused(*fit, tmp_path / "o", "--label-fields", "genus")
    several = ["--supervised", "--label-fields", "genus"]
    assert "no photograph tells 'genus'" in refused(*fit, tmp_path / "o", *several)
    members = {f"plant_{n}.jpg": jpeg(n) for n in range(9)} | {f"plant_{n}.cls": b"%d" % (n % 3) for n in range(9)}
    members |= {f"plant_{n}.json": json.dumps({"genus": "Rosa" if n % 3 else "Salvia"}).encode() for n in range(8)}
    write_tar(tmp_path / "genera" / "train-000000.tar", members)
    genera = ["hash", "fit", backbone, "--data", tmp_path / "genera", *settings, "--out"]
    code, out, err = umbel(*genera, tmp_path / "several", *several)
    assert code == 0, err
    assert "5 labels, 1.9 of them on a photograph" in out
    assert umbel(*genera, tmp_path / "one", "--supervised").code == 0
    coders = [(tmp_path / name / "coder.safetensors").read_bytes() for name in ("one", "several")]
    assert coders[0] != coders[1]
    assert "was made otherwise" in refused(*genera, tmp_path / "several", "--supervised")


def test_pairs_of_names_captions_and_embeddings(
    tmp_path: Path, jpeg: Callable[..., bytes], write_tar: Callable[..., Path], umbel: Umbel, refused: Refused
) -> None:
    """Shards whose photographs carry captions and a family, beside embeddings under the same keys."""
    embeddings = make_embeddings(tmp_path / "embeddings")
    members: dict[str, bytes] = {}
    for row in range(60):
        key = f"plant_{row:03d}"
        members |= {f"{key}.jpg": jpeg(row), f"{key}.cls": str(row % 3).encode()}
        members |= {f"{key}.json": b'{"family": "Lamiaceae"}', f"{key}.txt": f"leaf {row}".encode() if row % 2 else b""}
    write_tar(tmp_path / "shards" / "train-000000.tar", members)
    fit = ["hash", "fit", embeddings, "--bits", 8, "--device", "cpu", "--crovca.least-steps", 3]
    data = ["--data", tmp_path / "shards"]
    for number, (what, more, words) in enumerate((
        ("names", [], "59 photographs with 9 descriptions."),  # one has no label
        ("names", data, "59 photographs with 18 descriptions."),
        ("captions", data, "30 photographs with 30 descriptions."),
        (make_embeddings(tmp_path / "sounds", count=45, width=7), [], "45 photographs with 45 descriptions."),
    )):  # fmt: skip
        out = tmp_path / f"coder-{number}"
        code, said, err = umbel(*fit, *more, "--pairs", what, "--out", out)
        assert code == 0, err
        assert words in said
        assert "crovca-pairs, 8 bits" in said
        coder, _ = load_hasher(out)
        assert coder.encode(np.zeros((2, 12), np.float32)).shape == (2, 8)
        assert "already holds" in umbel(*fit, *more, "--pairs", what, "--out", out).out
    write_tar(tmp_path / "strangers" / "train-000000.tar", {f"plant_{n:03d}.jpg": jpeg(n + 99) for n in range(60)})
    told = make_embeddings(tmp_path / "told", data={"fingerprint": "0" * 16})
    of_others = ["hash", "fit", told, "--bits", 8, "--data", tmp_path / "strangers", "--out", tmp_path / "o"]
    for what in ("captions", "names"):
        assert "are of other photographs" in refused(*of_others, "--pairs", what)
    assert "no shards" in refused(*fit, "--pairs", "names", "--data", tmp_path / "nosuch", "--out", tmp_path / "o")
    other = make_embeddings(tmp_path / "other", count=9)
    (other / "keys.txt").write_text("".join(f"insect_{row}\n" for row in range(9)))
    for what, words in (
        ("captions", "say where these are with --data"),
        (other, "has no key in common"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        assert words in refused(*fit, "--pairs", what, "--out", tmp_path / "o")
    assert "pairs are of the method crovca" in refused(*fit, "--pairs", "names", "--method", "itq", "--out", "o")


def test_embeddings_of_another_backbone_or_width_are_refused(tmp_path: Path, umbel: Umbel, refused: Refused) -> None:
    one = make_embeddings(tmp_path / "one", backbone={"source": "a", "sha256": "1" * 64})
    two = make_embeddings(tmp_path / "two", backbone={"source": "a", "sha256": "2" * 64})
    wide = make_embeddings(tmp_path / "wide", width=13)
    assert umbel("hash", "fit", one, "--method", "itq", "--bits", 8, "--out", tmp_path / "coder").code == 0
    encode = ["hash", "encode", tmp_path / "coder", "--out", tmp_path / "codes", "--embeddings"]
    assert "another backbone" in refused(*encode, two)
    assert "width 13" in refused(*encode, wide)
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "nowhere", "--method", "itq", "--out", "o"], "holds no embeddings"),
        (["fit", "embeddings", "--out", "o"], "does not tell its backbone"),
        (["fit", "nowhere", "--out", "o"], "give their shards with --data"),
        (["fit", "nowhere", "--data", "embeddings", "--out", "o"], "holds no shards"),
        (["fit", "embeddings", "--method", "itq", "--bits", "13", "--out", "o"], "at most 12 bits"),
        (["encode", "nowhere", "--embeddings", "embeddings", "--out", "o"], "holds no hash coder"),
        (["encode", "coder", "--embeddings", "codes", "--out", "o"], "holds no embeddings"),
        (["search", "embeddings", "--key", "a"], "holds no codes"),
        (["search", "codes", "--key", "plant_0004"], "did you mean 'plant_004'?"),
        (["search", "codes", "--keys-from", "nowhere.txt"], "one with a key on each line"),
        (["search", "codes", "--keys-from", "empty.txt"], "holds no keys"),
        (["search", "codes", "--photo", "notes.jpg"], "it is not an image"),
        (["search", "codes", "--photo", "nowhere.jpg"], "nowhere.jpg cannot be used"),
        (["search", "codes", "--photo", "good.png"], "give it with --backbone"),
        (["evaluate", "nowhere"], "neither codes"),
        (["evaluate", "embeddings", "embeddings"], "second folder of embeddings"),
        (["evaluate", "codes", "others"], "other photographs or labels"),
        (["evaluate", "queries"], "no labeled photograph can be a database"),
        (["fit", "queries", "--method", "itq", "--out", "o"], "only a test split"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    arguments: list[str],
    words: str,
    made: Path,
    refused: Refused,
    picture: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_embeddings(made / "others", count=60)
    (made / "notes.jpg").write_text("hello")
    (made / "empty.txt").write_text("\n")
    picture(1).save(made / "good.png")
    both = Embeddings.load(made / "embeddings").take(np.arange(60, 90))
    Embeddings(**(vars(both) | {"splits": ("test",), "split": np.zeros(30, np.int64)})).save(made / "queries")
    monkeypatch.chdir(made)
    assert words in refused("hash", *arguments)
    assert not (made / "o").exists()


HERE = Path("here")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HashFitConfig(source="a", out=HERE, bits=0), "bits must be at least 1, not 0"),
        (lambda: HashFitConfig(source="a", out=HERE, seed=-1), "seed must not be negative, not -1"),
        (lambda: HashSearchConfig(codes=HERE), "one of --key, --photo, --text and --keys-from"),
        (
            lambda: HashSearchConfig(codes=HERE, key=("a",), photo=(HERE,)),
            "one of --key, --photo, --text and --keys-from",
        ),
        (lambda: HashSearchConfig(codes=HERE, key=("a",), top=0), "top must be at least 1"),
        (lambda: HashSearchConfig(codes=HERE, key=("a",), shortlist=20), "of no use without --rerank"),
        (
            lambda: HashSearchConfig(codes=HERE, key=("a",), shortlist=9, rerank="float"),
            "shortlist must be at least top (10)",
        ),
        (lambda: HashEvaluateConfig(inputs=(HERE,), k=0), "k and bits must be at least 1"),
        (lambda: HashEvaluateConfig(inputs=()), "at least one folder"),
    ],
)
def test_impossible_settings_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_encoding_streams_pieces(made: Path, umbel: Umbel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel.evaluation.hashing.encode_command.ROWS_AT_ONCE", 7)
    encode = ["hash", "encode", made / "coder", "--embeddings", made / "embeddings", "--out", made / "again"]
    assert umbel(*encode).code == 0
    for name in ("codes.safetensors", "keys.txt", "codes.json"):
        assert (made / "again" / name).read_bytes() == (made / "codes" / name).read_bytes()


def test_a_batch_of_keys_answers_as_each_alone(made: Path, umbel: Umbel) -> None:
    keys = [f"plant_{row:03d}" for row in (3, 80, 41)]
    (made / "keys.txt").write_text("\n".join(keys))
    search = ["hash", "search", made / "codes", "--top", 4, "--json"]
    for more in ([], ["--rerank", "float"], ["--rerank", "asymmetric", "--shortlist", 9]):
        batch = json.loads(umbel(*search, "--keys-from", made / "keys.txt", *more).out)
        assert [answer["query"] for answer in batch] == keys
        assert json.loads(umbel(*search, "--key", *keys, *more).out) == batch
        assert [json.loads(umbel(*search, "--key", key, *more).out)[0] for key in keys] == batch
        assert all(answer["query"] not in [row["key"] for row in answer["found"]] for answer in batch)
    shown = umbel("hash", "search", made / "codes", "--keys-from", made / "keys.txt", "--rerank", "float").out
    assert "order: float distance over the 90 nearest" in shown
    assert all(f"\n{key}\n" in shown for key in keys)


def test_other_embeddings_than_the_codes_were_made_of_are_refused(made: Path, umbel: Umbel, refused: Refused) -> None:
    search = ["hash", "search", made / "codes", "--key", "plant_004", "--rerank", "float"]
    (made / "embeddings").rename(made / "elsewhere")
    assert "holds no embeddings" in refused(*search)
    assert umbel(*search, "--embeddings", made / "elsewhere").code == 0
    make_embeddings(made / "embeddings", other=1)
    assert "holds other embeddings" in refused(*search)


def test_an_index_that_is_asked_for_is_searched(made: Path, umbel: Umbel, refused: Refused) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (pip install 'umbel[search]')")
    encode = ["hash", "encode", made / "coder", "--embeddings", made / "embeddings", "--index", "ivf", "--out"]
    assert "index: None there, ivf now" in refused(*encode, made / "codes")
    ending = umbel(*encode, made / "indexed")
    assert ending.code == 0, ending.err
    assert "an index (faiss IVF) of 4 lists for 90 codes" in ending.out
    search = ["hash", "search", made / "indexed", "--key", "plant_004", "--top", 3]
    assert "of 4 lists of the index, recall@10" in umbel(*search).out
    assert umbel(*search, "--exact").out == umbel("hash", "search", made / "codes", *search[3:]).out
