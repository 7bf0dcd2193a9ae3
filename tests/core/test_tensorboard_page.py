"""Curves, as somebody sees them who opens TensorBoard in a browser."""

import numpy as np
import pytest
from core.browser import IS_INSTALLED, Browser, wait_for

from mlpug.callbacks import AutoTensorboard, Tensorboard, TestMetricsLogger, TrainingMetricsLogger
from mlpug.evaluation import Metric, MetricEvaluator

# The colour of each run, as the list beside the charts has it.
COLORS = """
const rows = [...document.querySelectorAll("runs-data-table tb-data-table-content-row")];
return Object.fromEntries(rows.map(row => [
    row.innerText.trim(),
    getComputedStyle(row.querySelector(".run-color-swatch")).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number),
]));
"""

# The area of each chart in which its lines are, by the name above it.
CHARTS = """
const cards = [...document.querySelectorAll("card-view")].filter(card => card.querySelector(".series-view"));
return Object.fromEntries(cards.map(card => [
    card.querySelector(".heading .tag").innerText.trim(), card.querySelector(".series-view")
]));
"""

CURVES = [f"{kind}.{name}" for kind in ("batch", "sliding_window") for name in ("loss", "square")]


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture
def runs(train, tmp_path):
    """A directory with the curves of a training."""
    evaluator = MetricEvaluator(
        model_evaluate_func=lambda batch, **_: (float(np.mean(batch)), len(batch), batch),
        metrics={"square": Metric(lambda batch, _: batch, lambda values: float(np.mean(values**2)))},
    )
    callbacks = [
        TrainingMetricsLogger(evaluator, sliding_window_length=2),
        TestMetricsLogger([np.array([3.0, 5.0])], "validation", metric_evaluator=evaluator, batch_level=False),
        Tensorboard("digits", [f"training.{name}" for name in CURVES], directory=tmp_path / "runs"),
        AutoTensorboard("digits", "validation", directory=tmp_path / "runs"),
    ]
    train([np.array([value, 1.0]) for value in (1.0, 2.0, 4.0, 8.0)], callbacks, num_epochs=3)
    return tmp_path / "runs"


def share_of_width(picture, color):
    """How much of a chart's width has something of this colour in it: a line has much, a dot has little."""
    is_near = np.abs(picture.astype(int) - color).max(axis=2) < 40  # but for how edges are smoothed
    return is_near.any(axis=0).mean()


@pytest.mark.skipif(not IS_INSTALLED, reason="needs a browser: apt-get install chromium chromium-driver")
def test_the_page_draws_a_line_for_each_run_in_the_chart_of_each_metric(runs, serve, browser):
    names = {f"digits/{run}" for run in ("training", "training-sliding-window", "validation")}
    server = serve(runs)
    server.tags(names)
    browser.open(f"{server.address}/?smoothing=0#timeseries")

    def lines():
        """For each chart, the runs that have a line in it."""
        colors = browser.run(COLORS)
        pictures = {name: browser.picture(area) for name, area in browser.run(CHARTS).items()}
        return {
            name: {run for run, color in colors.items() if share_of_width(picture, color) > 1 / 3}
            for name, picture in pictures.items()
        }

    wait_for({"loss": names, "square": names}, lines)
