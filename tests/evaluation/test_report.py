"""`umbel report`: one file, whole and true, whatever is missing and whoever wins."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from umbel.backbones.build import BackboneConfig, build, model_arguments
from umbel.backbones.folder import ModelCard, write_timm_folder
from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.fewshot import interval
from umbel.evaluation.hashing import Codes
from umbel.evaluation.probe_rows import ProbeRow
from umbel.evaluation.report import ReportConfig, run, write_report
from umbel.evaluation.report_html import Markup, table, tag
from umbel.evaluation.report_pictures import choose, components_as_colors, patch_grid
from umbel.evaluation.report_style import STYLE
from umbel.evaluation.report_words import duration, features_told, health, speed, verdict
from umbel.run import UserError

SPACE = "\N{NO-BREAK SPACE}"
EVIL = "<script>alert(1)</script>"
VOID = ("meta", "img", "br")
OURS, FRESH, COLOR = "pretrained backbone", "untrained backbone", "color histogram"
SECTIONS = (
    "Summary",
    "Few-shot accuracy",
    "Training",
    "Health",
    "Speed",
    "Augmented views",
    "Patch features",
    "Retrieval by code",
    "Hashing",
    "Cost",
    "Provenance",
)


def probe_row(name: str, mean: float, *, spread: float = 0.01, shots: int = 5) -> ProbeRow:
    accuracies = (mean + spread * np.array([-1.0, 1.0, -0.5, 0.5])).tolist()
    middle, half = interval(accuracies)
    return ProbeRow(
        name=name,
        shots=shots,
        draws=4,
        accuracies=accuracies,
        mean=middle,
        interval=half,
        knn=mean / 2,
        knn_plain=mean / 3,
        k=20,
        seconds=0.5,
        left_out=[],
    )


ROWS = [probe_row(OURS, 0.6123), probe_row(COLOR, 0.4217), probe_row("raw pixels", 0.2), probe_row(FRESH, 0.3)]


PROBES = [
    {"step": step, "epoch": step / 10, "shots": 5, "accuracy": reached, "interval": 0.01, "classes": 24}
    | {"photographs": 48, "seconds": 1.0}
    for step, reached in ((0, 0.1), (10, 0.25), (20, 0.3))
]


def measures(step: int, rank: float = 20.0, cosine: float = 0.25) -> dict[str, Any]:
    """What the log tells of a step's features, gradients, speed and memory."""
    told = {"effective_rank": rank, "effective_rank_limit": 64, "cosine": cosine, "agreement": 0.9}
    told |= {"coding_rate_share": 0.5, "mfu": 0.3, "mfu_executed": 0.25, "data_wait": 0.05, "memory_gib": 1.5}
    norms = {"embedding": 8.0 / step, "block 0": 0.4, "block 1": 0.2, "norm": 0.01, "head": 1.0}
    return told | {"grad_norms": norms}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_probe(path: Path, rows: list[ProbeRow], classes: list[str]) -> None:
    told = {"format": 1, "command": "probe", "rows": [dataclasses.asdict(row) for row in rows], "classes": classes}
    path.write_text(json.dumps(told))


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every file there can be, on 24 + 24 synthetic plants, its backbone untrained."""
    root = tmp_path_factory.mktemp("report")
    make_synthetic(MakeSyntheticConfig(out=root / "shards", train=24, test=24, size=32, workers=1))
    shards = open_shards(str(root / "shards"))
    path = root / "run"
    small = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=1, heads=2, patch=8, registers=1)
    card = ModelCard(
        architecture=small.name,
        arguments=model_arguments(small, 16),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        num_features=32,
    )
    torch.manual_seed(0)
    weights = build(small, 16).state_dict()
    write_timm_folder(path / "checkpoints" / "step-00000020" / "backbone", weights, card)
    config = {
        "format": 1,
        "command": "pretrain",
        "data": str(root / "shards"),
        "recipe": "demo",
        "init": None,
        "seed": 3,
        "device": "cpu",
        "backbone": {"name": small.name},
        "views": {"global_size": 16, "local_size": 8, "local_views": 2},
        "train": {"precision": "bf16"},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    start = {"time": "2026-01-02T03:04:05+0000", "from_step": 0, "command": ["umbel", "pretrain", "a b"]}
    start |= {"umbel": "0.1.0", "python": "3.11", "system": "Linux", "libraries": {"torch": "2.9"}}  # type: ignore[dict-item]
    lasting = {"data": shards.select(["train"]).fingerprint()}
    (path / "run.json").write_text(json.dumps({"format": 1, "lasting": lasting, "starts": [start]}))
    names = ("loss", "image_loss", "patch_loss", "compression", "expansion", "grad_norm_backbone", "grad_norm_head")
    rows = [
        {"step": step, "epoch": step / 10, "learning_rate": 1e-3, "images_per_second": 90.0, "bad_steps": 0}
        | dict.fromkeys(names, 1 / step)
        | measures(step)
        for step in (10, 20)
    ]
    write_lines(path / "metrics.jsonl", rows)
    write_lines(path / "probes.jsonl", PROBES)
    write_probe(path / "probe.json", ROWS, list(shards.classes))
    scores: list[dict[str, Any]] = [
        {"name": "float features", "bits": None, "distance": "cosine", "map": 0.5, "health": None},
        {"name": "run/codes", "bits": 8, "distance": "Hamming", "map": 0.41}
        | {"health": {"imbalance": 0.1, "correlation": 0.2, "constant": 0}},
    ]
    (path / "hash.json").write_text(json.dumps({"format": 1, "convention": "mAP@24", "scores": scores}))
    steps = [{"name": "pretrain", "seconds": 125.0, "peak_memory_gib": 1.25}]
    steps.append({"name": "probe", "seconds": 2.5, "peak_memory_gib": None})
    (path / "steps.json").write_text(json.dumps({"format": 1, "steps": steps}))
    Codes(
        packed=np.random.default_rng(0).integers(0, 256, (48, 1), dtype=np.uint8),
        bits=8,
        label=shards.members["label"].astype(np.int64),
        split=np.repeat([0, 1], 24),
        keys=tuple(map(shards.key, range(48))),
        splits=("test", "train"),
        classes=shards.classes,
        provenance={"coder": {"method": "crovca"}, "data": {"fingerprint": shards.fingerprint()}},
    ).save(path / "codes")
    return path


@pytest.fixture(scope="session")
def whole(full_run: Path) -> str:
    return write_report(full_run).read_text()


@pytest.fixture
def a_run(full_run: Path, tmp_path: Path) -> Path:
    """A copy to take files away from."""
    return Path(shutil.copytree(full_run, tmp_path / "run"))


class Reader(HTMLParser):
    """What stands in a page; fails where elements do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_full_run_has_every_section(whole: str) -> None:
    page = Reader(whole)
    assert page.text("h2") == list(SECTIONS)
    assert page.all("html")[0]["lang"] == "en"
    assert [name for name, _ in page.elements].count("h1") == 1
    assert "There is no" not in whole
    assert "There are no" not in whole
    viewport = [meta for meta in page.all("meta") if meta.get("name") == "viewport"]
    assert viewport[0]["content"] == "width=device-width, initial-scale=1"
    assert page.text("h1") == ["vit_tiny_patch16_224, pretrained on synthetic plants"]


def test_the_file_is_one_and_fetches_nothing(whole: str) -> None:
    assert re.findall(r"https?://|@import|url\((?!#)|//[a-z]+\.", whole) == []
    page = Reader(whole)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        assert (attributes.get("src") or "data:").startswith("data:image/") or "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert len(whole) < 5_000_000


def test_every_picture_has_an_alternative_text_and_opens(whole: str) -> None:
    page = Reader(whole)
    pictures = page.all("img")
    # A sheet, six pairs, six queries with five neighbors.
    assert len(pictures) == 1 + 2 * 6 + 6 * 6
    for attributes in pictures:
        assert attributes["alt"]
        image = Image.open(io.BytesIO(base64.b64decode(str(attributes["src"]).partition(",")[2])))
        assert image.size == (int(str(attributes["width"])), int(str(attributes["height"])))
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])


def test_ids_are_given_once_and_links_lead_somewhere(whole: str) -> None:
    elements = Reader(whole).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(attributes["href"])[1:] for _, attributes in elements if "href" in attributes}
    links |= set(re.findall(r"url\(#([^)]+)\)", whole))
    assert links <= set(ids)


def test_the_text_of_curves_is_text_in_the_pages_colors(whole: str) -> None:
    assert "step" in Reader(whole).text("text")
    # The drawing at the head; training and probe, health and gradients by part, speed.
    assert whole.count("<svg") == 1 + (4 + 1) + (4 + 1) + 4
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", whole)
    assert "var(--leaf)" in whole


def test_the_table_holds_the_numbers_of_the_probe(whole: str) -> None:
    cells = Reader(whole).text("td")
    for row in ROWS:
        half = f"{100 * row.interval:.1f}"
        assert f"{100 * row.mean:.1f}{SPACE}±{SPACE}{half}{SPACE}%" in cells
        assert f"{100 * row.knn:.1f}{SPACE}%" in cells
        assert f"{100 * row.knn_plain:.1f}{SPACE}%" in cells
    assert f"Guessing among the classes reaches 4.2{SPACE}%" in whole


def test_costs_and_codes_are_told(whole: str) -> None:
    cells = Reader(whole).text("td")
    assert {"2 min 05 s", "1.25 GiB", "2 min 08 s", "–", "Hamming", f"41.0{SPACE}%"} <= set(cells)
    assert f"CroVCA, 8 bits by Hamming distance, mAP 41.0{SPACE}%, against 50.0{SPACE}% of the float features." in whole
    assert "umbel pretrain &#x27;a b&#x27;" in whole


def test_right_and_wrong_are_words(whole: str, full_run: Path) -> None:
    marks = [text for text in Reader(whole).text("span") if text.startswith(("✓", "✗", "Query"))]
    assert len(marks) == 36
    assert all(re.fullmatch(r"Query|✓ right, \d bits?|✗ wrong, \d bits?", mark) for mark in marks)
    codes = Codes.load(full_run / "codes")
    name = dict(zip(codes.keys, codes.label.tolist(), strict=True))
    alts = [str(image["alt"]) for image in Reader(whole).all("img")]
    query = ""
    for alt in alts:
        if found := re.match(r"(Query|Neighbor) (plant_\d+): ", alt):
            query = found[2] if found[1] == "Query" else query
            if found[1] == "Neighbor":
                assert (", right, " in alt) == (name[found[2]] == name[query])


@pytest.mark.parametrize(
    ("file", "sentences"),
    [
        ("probe.json", ["There is no few-shot table"]),
        ("hash.json", ["There is no hashing table"]),
        ("steps.json", ["What each step cost was not recorded"]),
        ("codes", ["the run folder has no codes"]),
        ("checkpoints", ["There are no maps of patch features: run"]),
    ],
)
def test_a_missing_file_is_told_in_a_sentence(file: str, sentences: list[str], a_run: Path) -> None:
    path = a_run / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = write_report(a_run).read_text()
    for sentence in sentences:
        assert sentence in page
    assert Reader(page).text("h2") == list(SECTIONS)


def test_photographs_that_are_gone_are_told(a_run: Path, tmp_path: Path) -> None:
    edit_config(a_run, data=str(tmp_path / "gone"))
    page = write_report(a_run).read_text()
    assert page.count("the photographs are not at hand") == 3
    assert "none at hand" in page
    assert not Reader(page).all("img")


def test_other_photographs_are_called_so(a_run: Path, foreign_shards: Callable[..., Path]) -> None:
    page = write_report(a_run, data=str(foreign_shards())).read_text()
    assert "not what the run was trained on" in page
    assert "the shards at hand hold other photographs than the codes" in page
    # The count of photographs is the training's own, and not known here.
    assert "on photographs for 20 steps" in page


def test_data_that_is_not_there_is_refused(a_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        write_report(a_run, data=str(tmp_path / "gone"))


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def test_names_are_escaped(a_run: Path) -> None:
    edit_config(a_run, recipe=EVIL, init=EVIL)
    write_probe(
        a_run / "probe.json", [probe_row(EVIL, 0.5), dataclasses.replace(ROWS[0], left_out=[0])], [EVIL, "b", "c"]
    )
    codes = Codes.load(a_run / "codes")
    shutil.rmtree(a_run / "codes")
    dataclasses.replace(codes, classes=(EVIL,) * 24).save(a_run / "codes")
    steps = [{"name": EVIL, "seconds": 1.0}]
    (a_run / "steps.json").write_text(json.dumps({"format": 1, "steps": steps}))
    page = write_report(a_run).read_text()
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 40
    assert not [attributes for name, attributes in Reader(page).elements if name == "script"]


def test_a_tag_escapes_all_but_markup() -> None:
    made = tag("p", "a < b", tag("b", "&"), title='"x"', class_="c", aria_label="l")
    assert made == '<p title="&quot;x&quot;" class="c" aria-label="l">a &lt; b<b>&amp;</b></p>'
    assert isinstance(made, Markup)


def words(rows: list[ProbeRow]) -> str:
    return verdict(rows).replace(SPACE, " ")


def test_the_pretrained_backbone_wins() -> None:
    told = words(ROWS)
    assert told.startswith("The pretrained backbone wins the 5-shot table: it names 61.2 ±")
    # On the same draws the difference is the same in every pair.
    assert "19.1 ± 0.0 percentage points more than the color histogram" in told
    assert "Pretraining itself adds 31.2 ± 0.0 percentage points" in told


def test_color_wins() -> None:
    told = words([probe_row(OURS, 0.3), probe_row(COLOR, 0.5), probe_row(FRESH, 0.4)])
    assert told.startswith("The color histogram wins the 5-shot table: it names 50.0 ±")
    assert "10.0 ± 0.0 percentage points more than the untrained backbone" in told
    assert "The pretrained backbone reaches only 30.0 ±" in told
    assert "20.0 ± 0.0 percentage points behind the best" in told
    assert "Pretraining itself takes away 10.0 ± 0.0 percentage points" in told


def test_overlapping_intervals_decide_nothing() -> None:
    told = words([probe_row(OURS, 0.505), probe_row(COLOR, 0.5), probe_row(FRESH, 0.51)])
    assert told.startswith("The 5-shot table is undecided: the untrained backbone reaches 51.0 ±")
    assert "wins" not in told
    assert "Whether pretraining helped at all is undecided" in told


def test_a_row_alone_wins_nothing() -> None:
    assert "nothing stands beside it" in words([ROWS[0]])
    assert "wins" not in words([ROWS[0]])


def test_only_a_decided_table_has_a_best_row(a_run: Path) -> None:
    def best(rows: list[ProbeRow]) -> list[str]:
        write_probe(a_run / "probe.json", rows, [])
        page = write_report(a_run).read_text()
        section = page[page.index('id="few-shot-accuracy"') : page.index('id="training"')]
        return re.findall(r'<tr class="best"><th scope="row">([^<]*)', section)

    assert best([ROWS[1], ROWS[0]]) == [OURS]
    assert best([probe_row(OURS, 0.5), probe_row(COLOR, 0.501)]) == []


def test_health_is_told() -> None:
    assert health([{"bad_steps": 0}], 0) == "Every step was finite, and every photograph could be decoded."
    assert health([{"bad_steps": 0}, {"bad_steps": 2}], 1) == (
        "In training, 2 steps were not finite and skipped and 1 photograph could not be decoded."
    )


def panels(page: str) -> dict[str, str]:
    """Title of a panel -> what its picture is called to those who do not see it."""
    found = re.findall(r'<div class="panel"><h3>([^<]*)</h3>.*?aria-label="([^"]*)"', page, flags=re.DOTALL)
    return dict(found)


def test_the_measures_have_pictures_that_are_told_in_words(whole: str) -> None:
    told = panels(whole)
    assert list(told) == [
        *("Loss", "Its two parts", "Compression and expansion", "Learning rate", "5-shot accuracy"),
        *("Effective rank", "Cosines", "Share of the coding rate", "Gradient norm", "Gradients by part"),
        *("Images per second", "Use of the device (MFU)", "Waiting for data", "Memory"),
    ]
    assert told["Effective rank"] == "Effective rank over steps. effective rank: from 20 to 20."
    assert told["Cosines"].endswith("other photographs: from 0.25 to 0.25; teacher and student: from 0.9 to 0.9.")
    assert told["Share of the coding rate"].endswith("share: from 50 % to 50 %.")
    assert told["Use of the device (MFU)"].endswith("model: from 30 % to 30 %; computed: from 25 % to 25 %.")
    assert told["Gradients by part"] == (
        "Gradient norm by part over steps. embedding: from 0.8 to 0.4; block 0: from 0.4 to 0.4; "
        "block 1: from 0.2 to 0.2; norm: from 0.01 to 0.01; head: from 1 to 1."
    )
    assert told["5-shot accuracy"] == "5-shot accuracy over steps: from 10 % to 30 %."
    assert "(at most 64 here)" in whole
    assert "guessing, 4.2" in whole
    # The table has the last word; the curve stands in the section of the training.
    assert Reader(whole).text("p").count(f"While it was trained, the teacher {TEACHER}.") == 1


TEACHER = (
    f"reached 30.0{SPACE}±{SPACE}1.0{SPACE}% with 5 shots at step 20, after 10.0{SPACE}±{SPACE}1.0{SPACE}% "
    "before the first step"
)


def test_a_run_without_measures_is_reported_without_them(a_run: Path) -> None:
    old = measures(1).keys()
    rows = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    write_lines(a_run / "metrics.jsonl", [{k: v for k, v in row.items() if k not in old} for row in rows])
    (a_run / "probes.jsonl").unlink()
    page = write_report(a_run).read_text()
    assert Reader(page).text("h2") == list(SECTIONS)
    told = ["Loss", "Its two parts", "Compression and expansion", "Learning rate", "Gradient norm", "Images per second"]
    assert list(panels(page)) == told
    assert "The features were not measured while the run was trained." in page
    assert "Training took 90 images a second in the median." in page
    assert "While it was trained" not in page


def test_probes_are_told_in_the_summary_where_there_is_no_table(a_run: Path) -> None:
    (a_run / "probe.json").unlink()
    page = write_report(a_run).read_text()
    assert Reader(page).text("p").count(f"While it was trained, the teacher {TEACHER}.") == 1
    assert page.index(TEACHER) < page.index('id="few-shot-accuracy"')
    (a_run / "probes.jsonl").unlink()
    assert "How good the features are is not known: they have not been probed." in write_report(a_run).read_text()


def test_collapse_is_told_in_health_and_in_the_summary(a_run: Path) -> None:
    assert 'class="warning"' not in write_report(a_run).read_text()
    rows = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    write_lines(a_run / "metrics.jsonl", [row | measures(row["step"], rank=1.7, cosine=0.99) for row in rows])
    page = write_report(a_run).read_text()
    sentence = "The features have collapsed: at step 20, the last that was measured, the teacher&#x27;s class tokens "
    sentence += "fill 1.7 directions of at most 64, and different photographs have a mean cosine of 0.99."
    assert page.count(sentence) == 2
    summary = page[page.index('id="summary"') : page.index('id="few-shot-accuracy"')]
    assert sentence in summary
    assert f'class="warning">{sentence} The backbone hardly tells photographs apart.' in page
    edit_config(a_run, optim={"warmup_epochs": 2.0})
    assert "begins like this; if it stays so after the warm-up (2 epochs)" in write_report(a_run).read_text()


@pytest.mark.parametrize(
    ("rank", "cosine", "warmup", "begins"),
    [
        (3.0, 0.95, 0.0, "The features are spread out: at step 20,"),
        (2.99, 0.1, 1.9, "The features have collapsed: at step 20,"),
        (30.0, 0.951, 1.9, "The features have collapsed: at step 20,"),
        (30.0, 0.951, 2.0, "All photographs still look nearly alike to the backbone: at step 20,"),
        (30.0, None, 0.0, "The features are spread out: at step 20,"),
    ],
)
def test_the_verdict_on_features_has_its_bounds(rank: float, cosine: float | None, warmup: float, begins: str) -> None:
    row = {"step": 20, "epoch": 2.0, "effective_rank": rank, "cosine": cosine}
    # A last line without measures, and a line before them that says otherwise.
    later = [{"step": 21, "epoch": 2.1}, {"step": 22, "epoch": 2.2, "effective_rank": float("nan")}]
    told, advice = features_told([row | {"effective_rank": 1.0}, row, *later], warmup)
    assert told.startswith(begins)
    assert bool(advice) == (not begins.startswith("The features are spread"))
    assert features_told([{"step": 1, "epoch": 0.1, "effective_rank": None}], warmup) == ("", "")


def test_waiting_for_data_is_told() -> None:
    rows = [
        {"images_per_second": images, "data_wait": wait} for images, wait in ((10.0, 0.1), (90.0, 0.3), (20.0, 0.2))
    ]
    told = speed(rows).replace(SPACE, " ")
    assert told.startswith("Training took 20 images a second in the median and waited for data 20.0 % of the time.")
    assert told.endswith("More --reader.workers or a faster disk would speed it up.")
    assert speed([rows[0]]).endswith("of the time.")
    assert speed([{"loss": 1.0}]) == "How fast training was is not known."


def test_only_probes_of_the_last_shots_make_the_curve(a_run: Path) -> None:
    other = [row | {"shots": 1, "accuracy": 0.9} for row in PROBES[:2]]
    write_lines(a_run / "probes.jsonl", [*other, *PROBES[1:], {"step": 30}])
    page = write_report(a_run).read_text()
    assert panels(page)["5-shot accuracy"] == "5-shot accuracy over steps: from 25 % to 30 %."
    assert f"after 25.0{SPACE}±{SPACE}1.0{SPACE}% at step 10." in page


def shades(page: str) -> list[tuple[float, str]]:
    """Opacity and outlines of each shade of the gradients' picture."""
    part = page[page.index("Gradient norm by part over steps") :]
    part = part[: part.index("</svg>")]
    found = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--leaf\)(?:[^"]*opacity: ([\d.]+))?', part)
    return [(float(opacity or 1), path) for path, opacity in found]


def cells(page: str) -> list[tuple[float, int]]:
    """Opacity of each shade, and its number of cells."""
    return [(opacity, path.count("M")) for opacity, path in shades(page)]


def test_gradients_by_part_are_shades_of_their_logarithm(a_run: Path) -> None:
    rows = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    norms = [{"embedding": 1e-4, "block 0": 1.0, "head": 1e4}, {"embedding": 0.0, "block 0": None, "head": 1e4}]
    changed = [row | {"grad_norms": found} for row, found in zip(rows, norms, strict=True)]
    write_lines(a_run / "metrics.jsonl", changed)
    page = write_report(a_run).read_text()
    # The least, the middle, and twice the greatest; what has no logarithm is left blank.
    assert cells(page) == [(0.08, 1), (pytest.approx(0.6, abs=0.01), 1), (1.0, 2)]
    assert re.search(r"<span>0\.0001</span>.*<span>1e\+04</span>", page)
    labels = [text for text in Reader(page).text("text") if text in norms[0]]
    assert labels == ["embedding", "block 0", "head"]


def test_cells_reach_from_line_to_line(a_run: Path) -> None:
    row = json.loads((a_run / "metrics.jsonl").read_text().splitlines()[0])
    write_lines(a_run / "metrics.jsonl", [row | {"step": step} for step in (10, 20, 22)])
    page = write_report(a_run).read_text()
    boxes = re.findall(r"M ([\d.]+) [\d.]+ ?\s*L ([\d.]+)", " ".join(path for _, path in shades(page)))
    across = sorted((float(left), float(right)) for left, right in set(boxes))
    widths = [round((right - left) / 340, 2) for left, right in across]
    # Of 22 steps, on 0.72 of the picture's width.
    assert widths == [round(0.72 * steps / 22, 2) for steps in (10, 10, 2)]


def test_many_parts_and_steps_are_thinned(a_run: Path) -> None:
    row = json.loads((a_run / "metrics.jsonl").read_text().splitlines()[0])
    parts = ["embedding", *(f"block {number}" for number in range(24)), "norm", "head"]
    norms = dict(zip(parts, np.logspace(-3, 3, len(parts)).tolist(), strict=True))
    write_lines(a_run / "metrics.jsonl", [row | {"step": step, "grad_norms": norms} for step in range(1, 3001)])
    page = write_report(a_run).read_text()
    assert sum(count for _, count in cells(page)) == 60 * len(parts)
    labels = [text for text in Reader(page).text("text") if text in parts]
    assert labels[0] == "embedding"
    assert labels[-1] == "head"
    assert len(labels) <= 7
    assert "norm" not in labels  # it would stand on the head


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.44, "1.4 s"), (59.96, "1 min 00 s"), (192, "3 min 12 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_that_are_not_finite_leave_gaps(a_run: Path) -> None:
    rows = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    rows[0] |= {"loss": None, "grad_norm_head": float("inf")}
    (a_run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(a_run).read_text()
    assert "Loss over steps. loss: from 0.05 to 0.05." in page


def test_a_long_run_is_thinned(a_run: Path) -> None:
    row = json.loads((a_run / "metrics.jsonl").read_text().splitlines()[0])
    lines = [json.dumps(row | {"step": step, "loss": float(np.sin(step))}) + "\n" for step in range(1, 5001)]
    (a_run / "metrics.jsonl").write_text("".join(lines))
    assert write_report(a_run).stat().st_size < 2_000_000


def test_drawing_changes_no_setting_of_matplotlib(full_run: Path, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_report(full_run, out=tmp_path / "r.html")
    assert dict(matplotlib.rcParams) == before


def test_what_is_no_run_is_refused(tmp_path: Path, a_run: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        write_report(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run"):
        write_report(tmp_path / "empty")
    (a_run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="has no metrics yet: let it train on"):
        write_report(a_run)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("content", ["{}", '{"format": 2}', '{"format": 1, "rows": [{"name": "x"}]}', "["])
def test_a_damaged_probe_is_refused(content: str, a_run: Path) -> None:
    (a_run / "probe.json").write_text(content)
    with pytest.raises(UserError, match=r"probe.json"):
        write_report(a_run)


def test_only_a_report_is_replaced(full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "report.html"
    run(ReportConfig(run=full_run, out=out))
    assert capsys.readouterr().out.startswith(f"{out}: 0.")
    write_report(full_run, out=out)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(UserError, match="is no report of Umbel's"):
        write_report(full_run, out=mine)
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(UserError, match="must end in"):
        write_report(full_run, out=tmp_path / "report.pdf")


def test_the_pictures_are_drawn_by_the_seed(full_run: Path) -> None:
    shards = open_shards(str(full_run.parent / "shards"))
    first, again, other = ([n for n, _ in choose(shards, 6, seed=s, splits=("test",))] for s in (3, 3, 4))
    assert first == again
    assert first != other
    # Shards are read in the order of their names: test, then train.
    assert all(number < 24 for number in first)
    labels = shards.members["label"][first]
    assert len(set(labels.tolist())) == len(labels)


def test_maps_show_the_leading_components() -> None:
    generator = torch.Generator().manual_seed(0)
    strength = torch.tensor([9.0, 5.0, 3.0, 0.1])
    tokens = torch.randn(500, 4, generator=generator) * strength
    colors = components_as_colors(tokens)
    assert colors.min() == 0
    assert colors.max() == 1
    for number in range(3):
        together = torch.stack([colors[:, number], tokens[:, number]])
        assert torch.corrcoef(together)[0, 1].abs() > 0.95
    assert torch.isfinite(components_as_colors(torch.ones(10, 4))).all()


def test_grids_follow_the_photograph() -> None:
    assert patch_grid(96, 96, trained=6) == (24, 24)
    assert patch_grid(100, 200, trained=14) == (32, 64)
    assert patch_grid(1000, 10, trained=14) == (96, 32)
    assert patch_grid(50, 50, trained=37) == (37, 37)


@pytest.mark.parametrize("night", [False, True])
def test_text_stands_out_from_the_page(night: bool) -> None:
    """Contrast by WCAG: at least 4.5 for every color that text has."""
    part = STYLE[STYLE.index("prefers-color-scheme") :] if night else STYLE
    page = {
        name: re.search(rf"--{name}: #(\w+)", part)[1] for name in ("paper", "card", "ink", "soft", "leaf", "wrong")
    }  # type: ignore[index]

    def luminance(color: str) -> float:
        levels = np.array([int(color[place : place + 2], 16) for place in (0, 2, 4)]) / 255
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for text in ("ink", "soft", "leaf", "wrong"):
        for ground in ("paper", "card"):
            low, high = sorted((luminance(page[text]), luminance(page[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_a_phone_scrolls_no_page_sideways(full_run: Path, tmp_path: Path) -> None:
    """In Chromium: in a frame of 390 pixels the page is no wider than the frame."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    report = write_report(full_run, out=tmp_path / "report.html").read_text()
    # The report itself runs no script: for the measurement its policy is taken out and a ruler put in.
    ruler = "<script>document.title = 'widths ' + document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    page = re.sub(r'<meta http-equiv="[^"]*" content="[^"]*">', "", report).replace("</body>", f"{ruler}</body>")
    (tmp_path / "frame.html").write_text(page)
    outer = "<script>onload = () => document.title = frames[0].document.title</script>"
    frame = '<iframe src="frame.html" style="width:390px;height:800px;border:0"></iframe>'
    (tmp_path / "outer.html").write_text(f"<!doctype html><title>-</title><body>{frame}{outer}</body>")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars", "--dump-dom"]
    flags.append("--virtual-time-budget=5000")
    url = (tmp_path / "outer.html").as_uri()
    done = subprocess.run([chromium, *flags, url], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>widths (\d+) (\d+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    assert (found[1], found[2]) == ("390", "390")


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="every row must have 2 cells"):
        table(("a", "b"), [("1", "2"), ("1", "2", "3")], name="t", caption="c")
