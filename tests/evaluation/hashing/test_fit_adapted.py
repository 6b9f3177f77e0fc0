"""`umbel hash fit --lora.rank`: the head alone first, then head and adapters; its folder serves every other command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from umbel.backbones import load
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.evaluation.embed import embed
from umbel.evaluation.hashing import Codes, CrovcaConfig, PhotographViewsConfig, load_hasher, unpack
from umbel.evaluation.hashing import fit_adapted as module
from umbel.evaluation.hashing.fit import fit_crovca
from umbel.evaluation.hashing.fit_adapted import fit_adapted
from umbel.evaluation.hashing.fit_config import HashFitConfig
from umbel.evaluation.hashing.fitting import Fitting
from umbel.evaluation.hashing.lora import LoraConfig
from umbel.evaluation.hashing.pairs import PairedCoder
from umbel.evaluation.hashing.photograph_views import view_embeddings
from umbel.evaluation.hashing.text_features import text_features
from umbel.evaluation.hashing.train_coders import FitLog
from umbel.evaluation.hashing.view_stream import ViewBatch, view_batches

pytest.importorskip("peft")
Umbel = Callable[..., Any]
Refused = Callable[..., str]
CLASSES = ("Rosa canina", "Salvia pratensis", "Thymus vulgaris")
VIEWS = PhotographViewsConfig(workers=0, policy="none")
QUICK = ("--bits", 8, "--device", "cpu", "--photographs.workers", 0, "--photographs.policy", "none")
ADAPT = ("--lora.rank", 2, "--crovca.epochs", 3, "--crovca.least-steps", 3, "--crovca.batch", 8)


def fitting(source: Path, shards: Path, **settings: Any) -> Fitting:
    config = HashFitConfig(
        source=str(source),
        out=Path("nowhere"),
        bits=8,
        crovca=CrovcaConfig(epochs=3, batch=8, least_steps=3),
        photographs=VIEWS,
        lora=LoraConfig(rank=2),
        **settings,
    )
    train = open_shards(str(shards)).select(["train"])
    return Fitting(config, load(source), train, None, torch.device("cpu"))


def test_the_head_learns_alone_for_an_epoch(tiny_vit: Path, captioned: Path) -> None:
    fit = fitting(tiny_vit, captioned)
    before = {name: tensor.clone() for name, tensor in fit.backbone.model.state_dict().items()}
    hasher, count = fit.heads()
    assert count == 29  # one is damaged
    after = fit.backbone.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    views, _ = view_embeddings(load(tiny_vit), fit.shards, config=VIEWS)
    alone = fit_crovca(views, bits=8, config=CrovcaConfig(epochs=1, batch=8, least_steps=3))
    assert all(np.array_equal(value, alone.tensors()[name]) for name, value in hasher.tensors().items())


def test_then_head_and_adapters_learn(tiny_vit: Path, captioned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitting(tiny_vit, captioned)
    hasher, _ = fit.heads()
    head, log, epochs = {name: value.copy() for name, value in hasher.tensors().items()}, FitLog(), []

    def watched(*arguments: Any, **settings: Any) -> Any:
        epochs.append(settings["epochs"])
        return view_batches(*arguments, **settings)

    rates: list[float] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, groups: Any, **settings: Any) -> None:
            rates.append(groups[0]["lr"])
            super().__init__(groups, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(module, "view_batches", watched)
    image, text = fit_adapted(fit.config, fit.backbone, fit.shards, [hasher], device=torch.device("cpu"), log=log)
    assert epochs == [range(1, 3)]
    assert len(log.total) == 2 * (30 // 8)
    # The heads go on by less than what they began with.
    assert rates[0] == pytest.approx(0.1 * fit.config.crovca.learning_rate)
    assert text is None
    learned = image.tensors()
    assert all(tensor.abs().max() > 0 for name, tensor in learned.items() if "lora_B" in name)
    assert any(not np.array_equal(value, head[name]) for name, value in hasher.tensors().items())
    assert not hasher.training
    # What was loaded is as it was, but for the projections' product.
    plain, merged = load(tiny_vit).model.state_dict(), image.merge().state_dict()
    assert {name for name in plain if not torch.equal(plain[name], merged[name])} == {
        f"blocks.{block}.attn.qkv.weight" for block in range(2)
    }


def test_its_folder_serves_every_command(
    tiny_vit: Path, captioned: Path, tmp_path: Path, umbel: Umbel, refused: Refused, picture: Callable[..., Image.Image]
) -> None:
    coder, codes = tmp_path / "coder", tmp_path / "codes"
    fit = ["hash", "fit", tiny_vit, "--data", captioned, *QUICK, *ADAPT, "--out"]
    code, said, err = umbel(*fit, coder)
    assert code == 0, err
    assert "adapted backbone:" in said
    assert "6 steps in" in said
    assert {path.name for path in coder.iterdir()} == {"coder.json", "coder.safetensors", "backbone", "adapter"}
    assert "already holds this coder" in umbel(*fit, coder).out
    assert "was made otherwise (lora" in refused(*fit, coder, "--lora.dropout", 0.2)
    assert umbel(*fit, tmp_path / "again").code == 0
    for name in ("coder.safetensors", "backbone/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (coder / name).read_bytes()
    for source, out in ((tiny_vit, "plain"), (coder / "backbone", "adapted")):
        embedding = ["embed", source, "--data", captioned, "--out", tmp_path / out, "--workers", 0, "--device", "cpu"]
        assert umbel(*embedding).code == 0
    sentence = refused("hash", "encode", coder, "--embeddings", tmp_path / "plain", "--out", codes)
    assert "than the adapted one of" in sentence
    assert f"embed with `umbel embed {coder / 'backbone'}`" in sentence
    assert umbel("hash", "encode", coder, "--embeddings", tmp_path / "adapted", "--out", codes).code == 0
    hasher, told = load_hasher(coder)
    adapted = load(coder / "backbone")
    again = embed(adapted, open_shards(str(captioned)), device="cpu")
    assert np.array_equal(unpack(Codes.load(codes).packed, 8), hasher.encode(again.features))
    assert told["adapted"] == {"source": f"folder {tiny_vit}", "rank": 2, "text": False}
    picture(5).save(tmp_path / "mine.png")
    code, said, err = umbel("hash", "search", codes, "--photo", tmp_path / "mine.png", "--json")
    assert code == 0, err
    with torch.inference_mode():
        mine = adapted.model(adapted.transform(picture(5))[None]).numpy()
    bits = (unpack(Codes.load(codes).packed, 8) != hasher.encode(mine)).sum(1)
    assert [row["hamming"] for row in json.loads(said)[0]["found"]] == sorted(bits.tolist())[:10]
    # The plain backbone's features are as wide as the adapted one's, and none of the coder's.
    for beside, distances in (("adapted", ["Hamming", "asymmetric"]), ("plain", ["Hamming"])):
        code, said, err = umbel("hash", "evaluate", codes, tmp_path / beside, "--json")
        assert code == 0, err
        rows = json.loads(said)["scores"]
        assert [row["distance"] for row in rows if row["name"] == str(codes)] == distances
        told = "no asymmetric search, and nothing by words: the embeddings beside it were made by another backbone"
        assert (told in err) == (beside == "plain")


@pytest.mark.parametrize("more", [("--supervised",), ("--pairs", "names"), ("--pairs", "captions")])
def test_labels_and_words_are_learned_with_adapters(
    more: tuple[str, ...], tiny_vit: Path, captioned: Path, tmp_path: Path, umbel: Umbel
) -> None:
    fit = ["hash", "fit", tiny_vit, "--data", captioned, *QUICK, *ADAPT, *more, "--out", tmp_path / "coder"]
    code, said, err = umbel(*fit)
    assert code == 0, err
    hasher, told = load_hasher(tmp_path / "coder")
    assert isinstance(hasher, PairedCoder) == (more[0] == "--pairs")
    assert told["asked"]["lora"]["rank"] == 2
    plain, merged = (load_file(folder / "model.safetensors") for folder in (tiny_vit, tmp_path / "coder" / "backbone"))
    assert not torch.equal(plain["blocks.0.attn.qkv.weight"], merged["blocks.0.attn.qkv.weight"])
    if isinstance(hasher, PairedCoder):
        # One of the 30 is damaged, and one has neither label nor caption.
        assert "28 photographs with" in said
        assert hasher.text_logits(["Rosa canina"]).shape == (1, 8)


def test_supervised_targets_are_of_the_photographs_own_class(
    tiny_vit: Path, captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fitting(tiny_vit, captioned, supervised=True)
    hasher, _ = fit.heads()
    asked: list[torch.Tensor] = []
    before = module.Prototypes.targets

    def watched(self: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append(labels)
        return before(self, logits, labels)

    monkeypatch.setattr(module.Prototypes, "targets", watched)
    seen: list[np.ndarray] = []
    stream = module.view_batches

    def told(*arguments: Any, **settings: Any) -> Any:
        for batch in stream(*arguments, **settings):
            seen.append(batch.sample)
            yield batch

    monkeypatch.setattr(module, "view_batches", told)
    fit.train(hasher)
    label = fit.shards.members["label"]
    assert len(seen) == len(asked) == 6
    for sample, members in zip(seen, asked, strict=True):
        assert 7 not in sample  # the damaged one
        assert [row.nonzero().flatten().tolist() for row in members] == [[n] if n >= 0 else [] for n in label[sample]]


def test_a_photograph_is_beside_its_own_words(tiny_vit: Path, captioned: Path) -> None:
    fit = fitting(tiny_vit, captioned, pairs="captions")
    fit.heads()
    words = fit.words
    assert words is not None
    assert words.features is not None
    keys = [fit.shards.key(sample) for sample in range(30)]
    told = {key: words.texts.texts[thing][0] for key, thing in zip(keys, words.thing, strict=True) if thing >= 0}
    # One is damaged, and one has no caption.
    assert told == {f"plant_{row:03d}": f"{CLASSES[row % 3]}, {row}" for row in range(30) if row not in (4, 7)}

    class Image:
        """Features of an image that tell which one it is."""

        @staticmethod
        def network(images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))[:, None]

    sample = np.array([9, 4, 0, 29])
    images = torch.tensor(sample).float().view(1, 4, 1, 1, 1).expand(2, 4, 3, 2, 2)
    batch = ViewBatch(images=images, sample=sample)
    look, cpu = module._photographs_and_words, torch.device("cpu")
    (first, seen), (second, read) = look(batch, torch.Generator(), Image, words, cpu)  # type: ignore[arg-type]
    assert (first, second, seen.flatten().tolist()) == (0, 1, [9, 0, 29])
    assert torch.equal(read, torch.from_numpy(text_features([told[keys[number]] for number in (9, 0, 29)])))
    alone = ViewBatch(images=images[:, :2], sample=sample[:2])
    assert look(alone, torch.Generator(), Image, words, cpu) == []  # type: ignore[arg-type]


def test_what_cannot_be_adapted_is_refused(
    tiny_vit: Path, captioned: Path, tmp_path: Path, umbel: Umbel, refused: Refused
) -> None:
    network = timm.create_model("convnext_atto", num_classes=0)
    card = ModelCard(
        architecture="convnext_atto", arguments={}, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, num_features=320
    )
    write_timm_folder(tmp_path / "atto", network.state_dict(), card)
    out = tmp_path / "o"
    assert "has no attention projections" in refused(
        "hash", "fit", tmp_path / "atto", "--data", captioned, *QUICK, *ADAPT, "--out", out
    )
    embedding = ["embed", tiny_vit, "--data", captioned, "--out", tmp_path / "mean", "--tokens", "mean"]
    assert umbel(*embedding, "--workers", 0, "--device", "cpu").code == 0
    fit = ["hash", "fit", tmp_path / "mean", *QUICK, *ADAPT, "--out", out]
    assert "adapts a backbone as it reads by itself" in refused(*fit)
    assert "lora.rank is of the method crovca" in refused(*fit, "--method", "itq")
    assert "lora.rank is of the method crovca" in refused(*fit, "--pairs", tmp_path / "sounds")
    assert "crovca.epochs of at least 2" in refused(*fit, "--crovca.epochs", 1)
    assert "two new views of a photograph: crovca.views=3" in refused(*fit, "--crovca.views", 3)
    assert not out.exists()
