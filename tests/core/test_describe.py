"""Callbacks that tell about the batches and the logs themselves."""

import numpy as np
import pytest

from mlpug.callbacks import BatchSizeLogger, DescribeLogsObject, TrainingMetricsLogger
from mlpug.callbacks.describe import describe
from mlpug.logs import Lazy, Logs


def test_the_size_of_each_batch_is_there_before_its_step(train, callback_with, arrays):
    before, after = [], []
    reader = callback_with(
        on_batch_training_start=lambda batch, logs: before.append(logs.at("training_params.batch.size")),
        on_batch_training_completed=lambda batch, logs: after.append(logs.at("training_params.batch.size")),
    )
    train(arrays(4, 4, 3), [BatchSizeLogger(), reader])

    assert before == after == [4, 4, 3]


def test_the_size_is_none_where_no_array_tells_it(train, returning, callback_with):
    sizes = []
    reader = callback_with(
        on_batch_training_completed=lambda batch, logs: sizes.append(
            logs["current"]["training_params"]["batch"]["size"]
        )
    )
    train([["a text"]], [BatchSizeLogger(), reader], training_model=returning(lambda batch: (0.5, 1)))

    assert sizes == [None]


def test_the_size_is_a_path_that_others_may_require(make_manager, callback_with, arrays):
    needy = callback_with()
    needy.required_metric_paths = lambda: ["training_params.batch.size"]

    assert make_manager(arrays(2), [needy, BatchSizeLogger()])


def test_a_description_has_a_line_for_each_name():
    logs = Logs(epoch=0, current=Logs(training=Logs(batch=Logs(loss=Lazy(lambda: 0.5), name="a")), is_best=False))

    assert describe(logs).split("\n") == [
        "logs",
        "  epoch: 0",
        "  current",
        "    training",
        "      batch",
        "        loss: 0.5",
        "        name: 'a'",
        "    is_best: False",
    ]


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_the_logs_are_described_after_the_first_batch_and_the_first_epoch_only(
    train, evaluator, arrays, capsys, num_epochs
):
    train(arrays(2, 2), [TrainingMetricsLogger(evaluator), DescribeLogsObject()], num_epochs=num_epochs)
    printed = capsys.readouterr().out
    after_batch, after_epoch = printed.split("After the first epoch:\n")

    assert after_batch.startswith("After the first batch:\nlogs\n")
    assert [text.count("logs\n") for text in (after_batch, after_epoch)] == [1, 1]
    assert ("batch_step: 0\n" in after_batch, "batch_step: 1\n" in after_epoch) == (True, True)


def test_every_value_of_the_logs_is_shown(train, callback_with, capsys):
    train([np.ones(2)], [DescribeLogsObject()])
    printed = capsys.readouterr().out

    for name in ("epoch: 0", "final_epoch: 0", "final_batch_step: 0", "global_iter: 0", "did_update_model: True"):
        assert f"  {name}\n" in printed
    assert "lr: 0.05" in printed
