"""Comparisons of probed features: what is read, what is refused, and who is called better."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from umbel.data.index import open_shards
from umbel.data.make import MakeSyntheticConfig, make_synthetic
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.fewshot import interval
from umbel.evaluation.report import ReportConfig, run, write_comparison
from umbel.evaluation.report_compare import comparison
from umbel.evaluation.report_differences import differences, dots, points
from umbel.evaluation.report_measures import by_group, is_best, measures
from umbel.evaluation.report_paired import paired
from umbel.evaluation.report_results import Features, compared, read_sources, shots_of_all
from umbel.evaluation.report_shots import over_shots, with_interval
from umbel.evaluation.report_summary import compared_in_words
from umbel.run import UserError

EVIL = "<script>alert(1)</script>"
OURS, FRESH, COLOR = "pretrained backbone", "untrained backbone", "color histogram"
DRAWS = 6


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def draws(mean: float, *, seed: int = 0, spread: float = 0.02) -> list[float]:
    """Accuracies of DRAWS draws with exactly this mean; the same seed moves them together."""
    moved = np.random.default_rng(seed).normal(size=DRAWS)
    return (mean + spread * (moved - moved.mean())).tolist()


def probe_row(name: str, accuracies: list[float], *, shots: int = 5, **more: Any) -> dict[str, Any]:
    mean, half = interval(accuracies)
    told = {"name": name, "shots": shots, "draws": DRAWS, "accuracies": accuracies, "mean": mean, "interval": half}
    return told | {"knn": 0.5, "knn_plain": 0.4, "k": 20, "seconds": 1.0, "left_out": []} | more


def write(file: Path, rows: list[dict[str, Any]], /, **changed: Any) -> Path:
    protocol = {"shots": rows[0]["shots"], "draws": DRAWS, "seed": 0, "k": 20, "queries": "test"}
    told = {"format": 1, "command": "probe", "protocol": protocol, "photographs": {"support": 30, "queries": 20}}
    told |= {"rows": rows, "classes": ["a", "b", "c", "d"], "provenance": {"data": {"fingerprint": "1"}}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told | changed))
    return file


def features(name: str, accuracies: list[float], *, pretrained: bool = False, **row: Any) -> Features:
    made = probe_row(name, accuracies, **row)
    ends = made["mean"], made["mean"] - made["interval"], made["mean"] + made["interval"]
    return Features(name=name, pretrained=pretrained, row=made, accuracies={5: accuracies}, curve={5: ends})


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    """Two folders: one with baselines and two numbers of shots, one with the same histogram and another network."""
    first = [probe_row(OURS, draws(0.6)), probe_row(COLOR, draws(0.4)), probe_row(FRESH, draws(0.2))]
    write(tmp_path / "first" / "probe.json", first)
    once = [probe_row(OURS, draws(0.3), shots=1), probe_row(COLOR, draws(0.1), shots=1)]
    write(tmp_path / "first" / "probe-1.json", once)
    second = [probe_row(OURS, draws(0.6, seed=1)), probe_row(COLOR, draws(0.4)), probe_row(FRESH, draws(0.25))]
    write(tmp_path / "second" / "probe.json", second)
    return [str(tmp_path / "first"), f"other={tmp_path / 'second'}"]


def test_each_kind_of_features_stands_once(results: list[str]) -> None:
    found = {of.name: of for of in compared(read_sources(results))}
    assert list(found) == ["first", COLOR, FRESH, "other", f"{FRESH} (other)"]
    assert [of.name for of in found.values() if of.pretrained] == ["first", "other"]
    assert list(found["first"].curve) == [1, 5]
    assert found["first"].curve[1][0] == pytest.approx(0.3)
    assert found[COLOR].accuracies[1] == draws(0.1)
    assert shots_of_all(list(found.values())) == 5


def test_a_result_of_many_shots_gives_the_whole_curve(tmp_path: Path) -> None:
    points_of = [
        {"shots": shots, "micro": {"value": value, "low": value - 0.01, "high": value + 0.02}}
        for shots, value in ((10, 0.7), (5, 0.6), (1, 0.3))
    ]
    write(tmp_path / "many.json", [probe_row(OURS, draws(0.6), centroid=points_of)])
    (only,) = compared(read_sources([str(tmp_path / "many.json")]))
    assert only.name == "many"
    assert list(only.curve) == [1, 5, 10]
    assert only.curve[10] == pytest.approx((0.7, 0.69, 0.72))
    # The draws themselves are told of one number of shots, and that is the one with a paired difference.
    assert list(only.accuracies) == [5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"protocol": {"draws": DRAWS, "seed": 1, "k": 20, "queries": "test"}}, r"differ in seed \(0 and 1\)"),
        ({"protocol": {"draws": 7, "seed": 0, "k": 20, "queries": "test"}}, "differ in draws"),
        ({"photographs": {"support": 31, "queries": 20}}, "are of other photographs"),
        ({"provenance": {"data": {"fingerprint": "2"}}}, "are of other photographs"),
        ({"classes": ["a", "b"]}, "are of other photographs"),
        ({"rows": []}, "is no result of `umbel probe`"),
        ({"rows": [{"name": "x"}]}, "its rows need accuracies, "),
    ],
)
def test_what_was_measured_otherwise_is_refused(
    changed: dict[str, Any], message: str, results: list[str], tmp_path: Path
) -> None:
    write(tmp_path / "third" / "probe.json", [probe_row(OURS, draws(0.5))], **changed)
    with pytest.raises(UserError, match=message):
        read_sources([*results, str(tmp_path / "third")])


def test_a_name_given_twice_and_a_folder_without_result_are_refused(results: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two results are called first: name them"):
        read_sources([results[0], results[0]])
    with pytest.raises(UserError, match=r"holds no result \(probe.json\)"):
        read_sources([results[0], str(tmp_path / "nothing")])
    write(tmp_path / "a=b" / "probe.json", [probe_row(OURS, draws(0.5))])
    assert read_sources([str(tmp_path / "a=b")])[0].name == "a=b"


def test_results_without_common_shots_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", [probe_row(OURS, draws(0.5), shots=1)])
    two = write(tmp_path / "two.json", [probe_row(OURS, draws(0.5), shots=2)])
    with pytest.raises(UserError, match="have no number of shots in common"):
        shots_of_all(compared(read_sources([str(one), str(two)])))


def test_what_moves_together_is_told_apart_and_what_does_not_is_not() -> None:
    base, near = features("base", draws(0.50)), features("near", draws(0.505))
    scattered = features("scattered", draws(0.505, seed=3))
    # Of the same mean: only the one on whose draws the difference is always the same is better.
    assert is_best([near, base], 5)
    assert not is_best([scattered, base], 5)
    assert not is_best([near, base, scattered], 5)
    assert not is_best([near], 5)
    html = plain(measures([scattered, base], 5))
    assert "<strong>" not in html
    assert re.search(r"<strong>50\.5 ± \d\.\d %<span", plain(measures([near, base], 5)))


def test_the_difference_that_a_result_tells_is_believed_from_both_sides(tmp_path: Path) -> None:
    told = {"first": OURS, "second": COLOR, "measure": "5-shot accuracy"}
    told |= {"difference": {"value": -0.01, "low": -0.03, "high": 0.005}}
    rows = [probe_row(OURS, draws(0.5)), probe_row(COLOR, draws(0.51)), probe_row("raw pixels", draws(0.2))]
    write(tmp_path / "probe.json", rows, comparisons=[told, told | {"measure": "20-NN accuracy"}])
    ours, color, raw = compared(read_sources([str(tmp_path)]))
    assert paired(ours, color, 5) == pytest.approx((-0.01, 0.02))
    assert paired(color, ours, 5) == pytest.approx((0.01, 0.02))
    # By the draws alone the histogram would be better.
    assert not is_best([color, ours, raw], 5)
    assert paired(ours, raw, 5) == pytest.approx((0.3, 0.0), abs=1e-12)
    # A row of that name in another result is another one.
    elsewhere = dataclasses.replace(color, source="elsewhere")
    assert paired(ours, elsewhere, 5) == pytest.approx((-0.01, 0.0), abs=1e-12)


def test_every_pair_has_its_difference_and_its_verdict() -> None:
    ranked = [features("a", draws(0.6)), features("b", draws(0.55, seed=2)), features("c", draws(0.545))]
    html = plain(differences(ranked, 5))
    cells = re.findall(r'<th scope="row">(.)</th><td>(.)</td><td>([^<]*)</td><td>([^<]*)</td>', html)
    assert [cell[:2] for cell in cells] == [("a", "b"), ("a", "c"), ("b", "c")]
    for first, second, told, verdict in cells:
        by_name = {of.name: np.array(of.accuracies[5]) for of in ranked}
        mean, half = interval(by_name[first] - by_name[second])
        assert told == f"+{100 * mean:.1f} ± {100 * half:.1f}"
        assert verdict == (f"{first} is better" if mean > half else "no difference can be told")
    assert [verdict for *_, verdict in cells] == ["a is better", "a is better", "no difference can be told"]
    assert "nothing stands beside" in differences(ranked[:1], 5)
    unpaired = features("d", draws(0.4)[:3])
    assert "not measured on the same draws" in differences([ranked[0], unpaired], 5)


def test_dots_lie_where_their_numbers_are() -> None:
    html = dots([("b", (0.04, 0.01)), ("c", (-0.02, 0.03))], against="a", shots=5)
    # From -6 to 6 in steps of 2: the least end is -5, the greatest 5.
    assert re.findall(r'class="zero" style="left:([\d.]+)%', html) == ["50.00", "50.00"]
    assert re.findall(r'class="point" style="left:([\d.]+)%', html) == ["83.33", "33.33"]
    whiskers = re.findall(r'class="whisker" style="left:([\d.]+)%;width:([\d.]+)%', html)
    assert whiskers == [("75.00", "16.67"), ("8.33", "50.00")]
    assert re.findall(r"<span>([^<]*)</span>", html)[-3:] == ["\N{MINUS SIGN}6", "0", "6"]
    assert "over b: +4.0 ± 1.0; over c: \N{MINUS SIGN}2.0 ± 3.0." in plain(html)
    assert points(None) == "–"


def test_the_curve_tells_its_numbers() -> None:
    curve = {1: (0.3, 0.29, 0.31), 10: (0.7, 0.6, 0.72)}
    of = Features(name="a", pretrained=True, row={}, accuracies={}, curve=curve)
    html = plain(over_shots([of], 0.25))
    assert "a: 30.0 ± 1.0 % at 1, 70.0 % (60.0 to 72.0) at 10." in html
    assert "Guessing reaches 25.0 %." in html
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", html)
    assert {"1", "10", "shots of each class (logarithmic)"} <= set(labels)
    assert not [label for label in labels if "math" in label]
    alone = Features(name="a", pretrained=True, row={}, accuracies={}, curve={5: (0.3, 0.29, 0.31)})
    assert "only 5 shots were measured" in over_shots([alone], None)
    assert plain(with_interval((0.5, 0.45, 0.55))) == "50.0 ± 5.0 %"


def test_the_summary_says_who_is_better() -> None:
    ours, color = features("ours", draws(0.6), pretrained=True), features(COLOR, draws(0.5))
    raw = features("raw pixels", draws(0.598, seed=5, spread=0.05))
    told = [plain(sentence) for sentence in compared_in_words([ours, color], 5)]
    assert re.fullmatch(
        rf"Best with 5 shots: ours, 60.0 ± \d.\d %, \+10.0 ± 0.0 percentage points over {COLOR}, the next.", told[0]
    )
    assert told[1] == f"ours: better than {COLOR}."
    undecided = compared_in_words([ours, raw, color], 5)
    assert undecided[0].endswith("but no difference can be told from raw pixels.")
    assert undecided[1] == f"ours: better than {COLOR}; no difference can be told from raw pixels."
    beaten = compared_in_words([color, features("ours", draws(0.4), pretrained=True)], 5)
    assert beaten[1] == f"ours: worse than {COLOR}."
    assert compared_in_words([ours], 5)[0].endswith("nothing stands beside it.")


def test_intervals_and_groups_of_other_probes_are_shown() -> None:
    reached = {"micro": {"value": 0.62, "low": 0.6, "high": 0.64}, "frequency": [], "organ": []}
    group = {"name": "tail", "classes": 2, "count": 7, "accuracy": {"value": 0.3, "low": 0.1, "high": 0.6}}
    nearest = {"weighted": reached | {"frequency": [group, group | {"name": EVIL, "count": 9}]}, "plain": reached}
    with_all = features("a", draws(0.6), nearest=nearest, logistic=reached)
    without = features("b", draws(0.5))
    html = plain(measures([with_all, without], 5))
    assert "Logistic regression" in html
    assert html.count("<td>62.0 ± 2.0 %</td>") == 3
    assert "<td>50.0 %</td><td>40.0 %</td><td>–</td>" in html
    groups = plain(by_group([with_all, without]))
    assert "30.0 % (10.0 to 60.0)" in groups
    assert "tail: 7 queries" in groups
    assert "<script" not in groups
    assert by_group([without]) == ""
    levels = {"genus": {"value": 0.7, "low": 0.6, "high": 0.8}, "family": None, "levels": ["genus", "family"]}
    higher = plain(by_group([features("c", draws(0.6), nearest={"weighted": reached | {"taxonomy": levels}})]))
    assert "<td>k-NN, weighted</td><td>70.0 ± 10.0 %</td><td>–</td>" in higher


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plants") / "shards"
    make_synthetic(MakeSyntheticConfig(out=folder, train=24, test=24, size=32, workers=1))
    return folder


def embeddings_of(plants: Path, seed: int, classes: tuple[str, ...] | None = None) -> Embeddings:
    shards = open_shards(str(plants))
    return Embeddings(
        features=np.random.default_rng(seed).normal(size=(48, 6)).astype(np.float32),
        label=shards.members["label"].astype(np.int64),
        split=np.repeat([0, 1], 24),
        keys=tuple(map(shards.key, range(48))),
        splits=("test", "train"),
        classes=shards.classes if classes is None else classes,
    )


def test_a_comparison_is_whole_and_escaped(results: list[str], plants: Path, tmp_path: Path) -> None:
    embeddings_of(plants, 0, (EVIL,) * 24).save(tmp_path / "first" / "embeddings")
    embeddings_of(plants, 1).save(tmp_path / "second" / "embeddings")
    evil = write(
        tmp_path / "evil.json", [probe_row(EVIL, draws(0.1))], provenance={"backbone": {"source": EVIL}}, absent=[EVIL]
    )
    out = write_comparison([*results, f"{EVIL}={evil}"], data=str(plants), out=tmp_path / "c.html")
    page = out.read_text()
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert page.count("<script>") == 1
    assert re.findall(r"<h2>([^<]*)</h2>", page) == [
        *("Summary", "Accuracy", "Over shots", "Differences", "By group", "Sensitivity", "Efficiency"),
        *("Nearest neighbors", "Map of features", "Most confused", "Patch features", "Provenance"),
    ]
    # Two maps of 48 photographs, whose thumbnails stand in the page once.
    assert page.count('data-n="') == 2 * 48
    assert page.count(":url(data:image/jpeg") == 48
    assert "the backbone is not where it was" in page
    assert len(page) < 2_000_000


def test_without_photographs_the_numbers_remain(results: list[str], plants: Path, tmp_path: Path) -> None:
    embeddings_of(plants, 0).save(tmp_path / "first" / "embeddings")
    page = comparison(read_sources(results), None)
    assert page.count("The embeddings cannot be shown: the photographs are not at hand") == 3
    assert "<img" not in page
    assert "first is better" in page


def test_embeddings_of_other_photographs_are_left_out(results: list[str], plants: Path, tmp_path: Path) -> None:
    embeddings_of(plants, 0).save(tmp_path / "first" / "embeddings")
    embeddings_of(plants, 1).take(np.arange(40)).save(tmp_path / "second" / "embeddings")
    page = comparison(read_sources(results), str(plants))
    assert page.count("Left out, because other photographs were embedded: other.") == 3


def test_the_command_tells_a_run_from_results(
    results: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.html"
    for given in (results, results[:1], results[1:], [str(tmp_path / "first" / "probe.json")]):
        run(ReportConfig(paths=tuple(given), out=out))
        assert "compared: report</title>" in out.read_text()
    assert capsys.readouterr().out.count("opens in any browser.") == 4
    with pytest.raises(UserError, match="is not a run"):
        run(ReportConfig(paths=(str(tmp_path),), out=out))
    with pytest.raises(ValueError, match="paths must name a run"):
        ReportConfig(paths=())
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    with pytest.raises(UserError, match="is no report of Umbel's"):
        write_comparison(results, out=mine)
