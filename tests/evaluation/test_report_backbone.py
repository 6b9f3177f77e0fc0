"""Sensitivity, costs and suites in reports: the numbers of probe.json, their doubts, and nothing that is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from umbel.evaluation.report import ReportConfig, run, write_comparison
from umbel.evaluation.report_efficiency import efficiency_section
from umbel.evaluation.report_sensitivity import sensitivity_section
from umbel.evaluation.report_suite import suite_in_words, suite_table
from umbel.run import UserError

EVIL = "<script>alert(1)</script>"
OURS = "pretrained backbone"


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def moved(operation: str, label: str, movement: float) -> dict[str, Any]:
    told = {"operation": operation, "strength": 1.0, "unit": "factor", "label": label, "movement": movement}
    told |= {"movement_interval": [movement - 0.1, movement + 0.1], "changed": movement / 2, "accuracy": 0.25}
    return told | {"changed_interval": [0.0, 1.0]}


def sensitivity() -> dict[str, Any]:
    found = [moved("blur", "1", 0.2), moved("blur", "2", 0.4), moved("hue", "1", 0.9), moved("hue", "2", 0.8)]
    told = {"source": "x", "photographs": 8, "species": 4, "between_species": 0.5, "accuracy": 0.75, "chance": 0.25}
    return {"sensitivity": told | {"moved": found}}


def test_sensitivity_is_drawn_sorted_and_judged_with_care() -> None:
    html = plain(sensitivity_section({OURS: sensitivity()}))
    assert "Movement does not prove harm." in html
    assert html.count("<svg") == 1
    assert re.findall(r'<th scope="row">([^<]*)</th>', html) == ["hue", "blur"]
    assert "<td>factor 1 2</td><td>0.90 (0.80 to 1.00)</td><td>45 %</td><td>25 %</td>" in html
    assert "8 photographs of 4 species" in html
    assert "names 75 % rightly" in html


def test_each_backbone_has_its_own_and_those_without_none() -> None:
    html = sensitivity_section({"a": sensitivity(), EVIL: sensitivity(), "c": {}})
    assert re.findall(r"<h3>([^<]*)</h3>", html) == ["a", "&lt;script&gt;alert(1)&lt;/script&gt;"]
    assert EVIL not in html
    assert html.count("Movement does not prove harm") == 1
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "was not measured" in sensitivity_section({"c": {}})


def test_a_sensitivity_that_lacks_something_is_refused() -> None:
    told = sensitivity()
    del told["sensitivity"]["moved"][0]["changed"]
    with pytest.raises(UserError, match="the sensitivity of the pretrained backbone cannot be read"):
        sensitivity_section({OURS: told})


def costs(**changed: Any) -> dict[str, Any]:
    latency = {"batch": 32, "runs": 9, "p50_ms": 12.345, "p95_ms": None, "images_per_second": 2500.0}
    latency |= {"joules_per_1000_images": None, "peak_memory_bytes": 3 << 20}
    told = {"source": "x", "image_size": 64, "parameters": 2_700_000, "multiply_adds": 45_600_000, "bytes": 10_800_000}
    told |= {"bytes_of": "model.safetensors", "device": "cpu", "threads": 1, "precision": "float32"}
    told |= {"latency": [latency], "energy_of": None, "energy_reason": "there is no counter"}
    return {"efficiency": told | changed}


def test_costs_are_told_and_why_energy_is_not() -> None:
    html = efficiency_section({OURS: costs()}, {OURS: (0.5, 0.4, 0.6)}, "5-shot")
    assert "<td>64 px</td><td>2.70 M</td><td>0.0456</td><td>10.8 MB</td>" in html
    assert "<td>32</td><td>12.35 ms</td><td>–</td><td>2,500</td><td>3 MiB</td><td>–</td>" in html
    assert "Energy is not known: there is no counter." in html
    assert "No 95th percentile is told of fewer than 20 batches." in html
    # One backbone is no picture.
    assert "<svg" not in html
    assert "was not measured" in efficiency_section({OURS: {}}, {}, "")


def test_energy_and_percentile_where_they_were_measured() -> None:
    latency = costs()["efficiency"]["latency"][0] | {"p95_ms": 20.5, "joules_per_1000_images": 12.3}
    told = costs(latency=[latency], energy_of="NVML", energy_reason=None)
    html = efficiency_section({OURS: told}, {}, "")
    assert "<td>20.5 ms</td>" in html
    assert "<td>12.3 J</td>" in html
    assert "Energy by NVML." in html
    assert "not known" not in html
    assert "fewer than 20" not in html


def test_several_backbones_stand_beside_each_other() -> None:
    told = {"small": costs(), "large": costs(multiply_adds=9_000_000_000, threads=2), "none": {}}
    reached = {"small": (0.5, 0.48, 0.52), "large": (0.6, 0.58, 0.62), "none": (0.1, 0.0, 0.2)}
    html = efficiency_section(told, reached, "5-shot nearest centroid")
    label = re.findall(r'<svg[^>]*aria-label="([^"]*)"', html)
    assert label == ["Accuracy against multiply-adds: small 0.0456 GMAC 50.0 %, large 9 GMAC 60.0 %."]
    assert "small: cpu, 1 thread(s), float32; large: cpu, 2 thread(s), float32." in html
    with pytest.raises(UserError, match="the costs of a cannot be read"):
        efficiency_section({"a": {"efficiency": {"device": "cpu"}}}, {}, "")


def suite(*sets: tuple[str, float], **changed: Any) -> dict[str, Any]:
    found = [
        {"name": name, "photographs": 400, "classes": 25, "accuracies": [mean] * 5, "deviation": 0.01}
        | {"accuracy": {"value": mean, "low": mean - 0.02, "high": mean + 0.02}}
        for name, mean in sets
    ]
    told = {"format": 1, "command": "probe", "suite": "plants", "backbone": "run", "shots": 5, "folds": 5}
    published = {"Big one": {"A": [87.9, 0.7], "B": [60.0, 1.0]}, "Small one": {"A": [80.0, 0.5]}}
    return told | {"sets": found, "published": published, "absent": ["C is not there."]} | changed


def test_a_suite_stands_beside_the_published_figures() -> None:
    html = plain(suite_table({"ours": suite(("A", 0.5), ("B", 0.7))}))
    assert '<th scope="row">ours</th><td>50.0 ± 1.0 (48.0 to 52.0)</td><td>70.0 ± 1.0 (68.0 to 72.0)</td>' in html
    assert '<th scope="row">Big one, published</th><td>87.9 ± 0.7</td><td>60.0 ± 1.0</td>' in html
    assert '<th scope="row">Small one, published</th><td>80.0 ± 0.5</td><td>–</td>' in html
    assert "C is not there." in html
    told = suite_in_words({"ours": suite(("A", 0.5), ("B", 0.7))})
    assert told[0] == "ours lies above the published figures on B; below the published figures on A."
    near = suite_in_words({"ours": suite(("A", 0.85), ("B", 0.615))})[0]
    assert near == "ours lies between or within the deviations of the published figures on A and B."
    assert "not a test" in told[-1]


def write(file: Path, told: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))
    return file


def test_the_command_shows_suites(tmp_path: Path) -> None:
    write(tmp_path / "a" / "probe.json", suite(("A", 0.5)))
    write(tmp_path / "b.json", suite(("B", 0.7), backbone=EVIL))
    out = tmp_path / "s.html"
    run(ReportConfig(paths=(str(tmp_path / "a"), str(tmp_path / "b.json")), out=out))
    page = out.read_text()
    assert re.findall(r"<h2>([^<]*)</h2>", page) == ["Summary", "Accuracy", "Provenance"]
    assert "<h1>a and b on the suite plants</h1>" in page
    assert EVIL not in page
    run(ReportConfig(paths=(f"mine={tmp_path / 'a' / 'probe.json'}",), out=out))
    assert "<h1>mine on the suite plants</h1>" in out.read_text()


def test_suites_that_cannot_stand_together_are_refused(tmp_path: Path) -> None:
    a = str(write(tmp_path / "a.json", suite(("A", 0.5))))
    out = tmp_path / "s.html"
    other = str(write(tmp_path / "other.json", suite(("A", 0.5), folds=3)))
    with pytest.raises(UserError, match="they differ in folds"):
        write_comparison([a, other], out=out)
    with pytest.raises(UserError, match="two results are called a: name them"):
        write_comparison([a, a], out=out)
    with pytest.raises(UserError, match="is no result of a suite, and cannot stand beside a"):
        write_comparison([str(tmp_path / "nothing"), a], out=out)
    damaged = str(write(tmp_path / "damaged.json", suite()))
    with pytest.raises(UserError, match="is no whole result of `umbel probe --suite`"):
        write_comparison([damaged], out=out)
    assert not out.exists()
