"""The pictures show what was measured: every strategy's curve and dot, weights, bars."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from umbel.data.votes import STRATEGIES, Aggregation, aggregate
from umbel.data.votes.encoded import encode
from umbel.data.votes.measures import Measures, Truth, accuracy_against_kept, match_truth, measure, subsets
from umbel.data.votes.pictures import LEAST_SHARE, POINTS, draw
from umbel.data.votes.simulate import CrowdConfig, simulate

Drawn = tuple[Figure, dict[str, Aggregation], Truth, dict[str, dict[str, Measures]]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    crowd = simulate(CrowdConfig(observations=3000, users=400, species=80, experts=0.01))
    columns = (crowd.observation, crowd.user, crowd.label)
    found = {name: aggregate(*columns, authors=crowd.author, strategy=name) for name in STRATEGIES}
    votes = encode(*columns)
    truth = match_truth(votes, pa.array(np.arange(3000)), pa.array(crowd.truth))
    table = {
        name: {strategy: measure(result, truth, mask) for strategy, result in found.items()}
        for name, mask in subsets(votes, truth).items()
    }
    return draw(found, truth, table, theta_conf=2.0), found, truth, table


def test_every_strategy_has_its_curve_and_its_dot(drawn: Drawn) -> None:
    figure, found, truth, table = drawn
    lines = figure.axes[0].lines
    assert len(lines) == 2 * len(found)
    for number, (name, result) in enumerate(found.items()):
        curve, dot = lines[2 * number : 2 * number + 2]
        kept, accuracy = accuracy_against_kept(result, truth)
        shown = kept >= LEAST_SHARE
        x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
        assert (x[0], x[-1]) == (kept[shown][0], kept[shown][-1])
        assert len(x) == min(POINTS, shown.sum())
        np.testing.assert_array_equal(y, accuracy[np.isin(kept, x)])
        row = table["all"][name]
        assert (dot.get_xdata(), dot.get_ydata()) == ([row.kept], [row.accuracy_of_valid])


def test_a_strategy_without_any_label_has_no_curve(drawn: Drawn) -> None:
    found = {"two-thirds": aggregate([0, 1], [0, 1], [0, 1], strategy="two-thirds")}
    votes = encode([0, 1], [0, 1], [0, 1])
    truth = match_truth(votes, pa.array([0, 1]), pa.array([0, 1]))
    rows = {"two-thirds": measure(found["two-thirds"], truth, np.ones(2, dtype=bool))}
    figure = draw(found, truth, {"all": rows}, theta_conf=2.0)
    assert len(figure.axes[0].lines[0].get_xdata()) == 0  # type: ignore[arg-type]
    FigureCanvasAgg(figure).draw()


def test_weights_are_those_of_the_strategies_that_learn_some(drawn: Drawn) -> None:
    figure, found, _, _ = drawn
    *steps, threshold = figure.axes[1].lines
    assert threshold.get_xdata() == [2.0, 2.0]
    assert len(steps) == 2
    for step, name in zip(steps, ("plantnet", "plantnet-compatible"), strict=True):
        np.testing.assert_array_equal(np.asarray(step.get_xdata()), np.sort(found[name].weight)[::-1])


def test_bars_are_the_species_kept(drawn: Drawn) -> None:
    figure, found, _, table = drawn
    heights = [bar.get_height() for bar in figure.axes[2].patches]  # type: ignore[attr-defined]
    assert heights == [rows[name].species_kept for name in found for rows in table.values()]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(found)
