"""The picture, the table and the sentences of a sensitivity: everything is there, in order, and can be read."""

import itertools
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from umbel.evaluation.chart import ON_PAPER, chart_for_page, save_chart
from umbel.evaluation.sensitivity_measure import Moved, Sensitivity
from umbel.evaluation.sensitivity_operations import changes
from umbel.evaluation.sensitivity_picture import WIDTH, by_operation, height, in_words, paint
from umbel.evaluation.sensitivity_words import sentences, table


@pytest.fixture
def found() -> Sensitivity:
    """Every operation; the later, the farther, and JPEG farthest at its second strength."""
    every = changes()
    moved = []
    for number, change in enumerate(every):
        far = 1.3 if (change.operation, change.label) == ("JPEG", "70") else number / len(every)
        moved.append(
            Moved(
                operation=change.operation,
                strength=change.strength,
                unit=change.unit,
                label=change.label,
                movement=far,
                movement_interval=(0.9 * far, 1.2 * far),
                changed=far / 2,
                changed_interval=(far / 3, far / 2),
                accuracy=0.8 - far / 2,
            )
        )
    return Sensitivity(
        photographs=120, species=60, between_species=0.6954, accuracy=0.8, chance=1 / 60, moved=tuple(moved)
    )


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def test_no_words_of_the_picture_cover_others(found: Sensitivity) -> None:
    figure = Figure(figsize=(WIDTH, height(found)), layout="constrained")
    paint(found)(figure, ON_PAPER)
    figure.canvas.draw()
    for axes in figure.axes:
        if axes.get_visible() and axes.get_title(loc="left") != "without strengths":
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert len(boxes) == 5
            assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
            title = axes.title if axes.get_title() else axes._left_title  # type: ignore[attr-defined]
            assert title.get_window_extent().x1 <= axes.get_window_extent().x1 + 10
    assert {axes.get_title(loc="left").partition(":")[0] for axes in figure.axes if axes.get_visible()} == {
        "without strengths",
        *(group[0].operation for group in by_operation(found.moved) if len(group) > 1),
    }


def test_the_picture_is_a_file_and_an_element_of_the_page(found: Sensitivity, tmp_path: Path) -> None:
    save_chart(paint(found), tmp_path / "new" / "s.png", "umbel probe", width=WIDTH, height=height(found))
    with Image.open(tmp_path / "new" / "s.png") as image:
        assert image.size == (round(130 * WIDTH), round(130 * height(found)))
        assert image.info["Software"] == "umbel probe"
    markup = chart_for_page(paint(found), in_words(found), width=WIDTH, height=height(found))
    assert markup.startswith(f'<svg viewBox="0 0 {72 * WIDTH:.0f} {round(72 * height(found))}" role="img"')
    for words in ("JPEG: quality", "hue: turns, ±", "upside down", "movement, 95 % interval"):
        assert f">{words}<" in markup
    # By night another color stands for each: none is left as drawn.
    for color in ("#010101", "#020202", "#030303", "#040404", "#000000"):
        assert color not in markup
    assert markup == chart_for_page(paint(found), in_words(found), width=WIDTH, height=height(found))


def test_a_row_for_each_operation_the_farthest_first(found: Sensitivity) -> None:
    head, *lines = table(found).splitlines()
    assert head.split()[:4] == ["operation", "from", "mild", "to"]
    assert len(lines) == 17
    assert [line.split("  ")[0] for line in lines[:4]] == ["JPEG", "upside down", "mirrored", "equalize"]
    assert "quality 90 70 50 30 10" in lines[0]
    assert "1.30 (1.17 to 1.56)" in lines[0]
    assert lines[0].split()[-4:] == ["65", "%", "15", "%"]
    assert lines[-1].startswith("brightness")


def test_sentences_name_the_farthest_and_do_not_say_that_they_harm(found: Sensitivity) -> None:
    opening, named, caution = sentences(found)
    assert opening.startswith("120 photographs of 60 species")
    assert "0.695" in opening
    assert named.startswith(
        "Farthest: JPEG (quality 70) moves 1.30 and changes 65 % of the nearest species; upside down"
    )
    assert named.endswith("Least: brightness (factor, ±80%) moves 0.06 and changes 3 % of the nearest species.")
    assert "that it harms training is not shown" in caution


def test_a_backbone_that_tells_nothing_apart_is_told(found: Sensitivity) -> None:
    from dataclasses import replace

    told = " ".join(sentences(replace(found, accuracy=0.03)))
    assert "names 3 % of the unchanged photographs rightly, by chance 2 %" in told
    assert "movements mean little" in told
