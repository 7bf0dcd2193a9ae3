"""The history as other libraries show it."""

import matplotlib
import pytest

from mlpug.callbacks import History
from mlpug.logs import Logs


@pytest.fixture
def history():
    history = History()
    for epoch in range(3):
        logs = {"epoch": epoch, "global_iter": 10 * epoch + 9, "training": Logs(batch=Logs(loss=1.0 / (epoch + 1)))}
        if epoch:
            logs["validation"] = Logs(dataset=Logs(loss=2.0 / epoch))
        history.on_epoch_completed(Logs(current=Logs(**logs)))
    return history


def test_it_is_a_data_frame(history):
    frame = history.to_dataframe()
    assert list(frame.columns) == ["epoch", "global_iter", "training.batch.loss", "validation.dataset.loss"]
    assert frame["training.batch.loss"].tolist() == [1.0, 0.5, 1.0 / 3]
    assert frame["validation.dataset.loss"].isna().tolist() == [True, False, False]


def test_it_is_plotted_over_batches(history):
    matplotlib.use("agg")
    axes = history.plot("training.batch.loss", "validation.dataset.loss")
    training, validation = axes.get_lines()
    assert training.get_xydata().tolist() == [[9, 1.0], [19, 0.5], [29, 1.0 / 3]]
    assert validation.get_xydata().tolist() == [[19, 2.0], [29, 1.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training.batch.loss",
        "validation.dataset.loss",
    ]
    assert history.plot("training.batch.loss", axes=axes) is axes


def test_what_has_no_rows_yet_is_an_empty_plot():
    matplotlib.use("agg")
    assert not History().plot().get_lines()
