"""What progress looks like, and when it is shown."""

import time

import numpy as np
import pytest

from mlpug.callbacks import LogProgress, TestMetricsLogger, TrainingMetricsLogger
from mlpug.callbacks.progress import as_clock, as_text, batch_report, epoch_report, metrics_row
from mlpug.errors import ConfigurationError
from mlpug.logs import Lazy, Logs

DATASET = [np.ones(2)] * 7


@pytest.fixture
def logs():
    """Logs in the middle of a run."""
    return Logs(
        epoch=1,
        final_epoch=9,
        final_batch_step=399,
        current=Logs(
            epoch=1,
            batch_step=20,
            global_iter=420,
            is_best=False,
            training=Logs(
                batch=Logs(did_update_model=True, loss=0.25, accuracy=0.875), sliding_window=Logs(loss=0.12345)
            ),
            training_params=Logs(
                batch=Logs(duration=0.1, lr=0.5), sliding_window=Logs(duration=0.0125), epoch=Logs(duration=3725.4)
            ),
            validation=Logs(dataset=Logs(loss=1e-6, f1={"cat": 0.5, "dog": {"small": 1.0, "large": None}})),
        ),
    )


def test_a_batch_report_has_a_block_for_each_level(logs):
    assert batch_report(logs, None, seconds_to_go=61.6).split("\n") == [
        "Epoch 1/9\tBatch 20/399\tETA 0:01:02\tAverage batch time 12.5ms",
        "Batch:",
        "training       : loss          0.250, accuracy      0.875.",
        "",
        "Moving average:",
        "training       : loss          0.123.",
        "",
        "Computed over dataset:",
        "validation     : loss          1.00e-06.",
        "                 f1",
        "                 ├── cat           0.500",
        "                 └── dog",
        "                     ├── small         1.000",
        "                     └── large         -",
        "",
        "",
    ]


def test_a_batch_report_leaves_out_what_nobody_knows(logs):
    logs["final_batch_step"] = None
    logs["current"]["training_params"]["sliding_window"]["duration"] = 1.5
    first_line = batch_report(logs, ["training"], seconds_to_go=None).split("\n")[0]

    assert first_line == "Epoch 1/9\tBatch 20\tAverage batch time 1.50s"


def test_an_epoch_report_shows_averages_and_datasets_instead_of_the_last_batch(logs):
    logs["current"]["validation"]["dataset"] = Logs(loss=0.5)

    assert epoch_report(logs, None).split("\n") == [
        "#" * 79,
        "Epoch 1/9\tREADY - Duration 1:02:05",
        "Moving average:",
        "training       : loss          0.123.",
        "",
        "Computed over dataset:",
        "validation     : loss          0.500.",
        "",
        "",
        "",
    ]


def test_an_epoch_report_shows_what_the_host_computed_over_the_epoch_and_a_batch_report_does_not(logs):
    logs["current"]["training"]["epoch"] = Logs(accuracy=0.75)
    assert "Over the epoch:\ntraining       : accuracy      0.750.\n" in epoch_report(logs, None)
    assert "0.750" not in batch_report(logs, None, seconds_to_go=61.6)  # it may be that of the epoch before


def test_an_epoch_report_shows_the_last_batch_where_there_is_nothing_better(logs):
    del logs["current"]["training"]["sliding_window"]

    assert epoch_report(logs, ["training"]).split("\n")[2:4] == [
        "Batch:",
        "training       : loss          0.250, accuracy      0.875.",
    ]


def test_sets_are_shown_in_the_order_of_their_names(logs):
    logs["current"]["validation"]["batch"] = Logs(loss=2.0)
    lines = batch_report(logs, ["validation", "training"], None).split("\n")
    block = lines[lines.index("Batch:") :]

    assert [line.split()[0] for line in block[1:3]] == ["validation", "training"]


def test_only_the_sets_that_were_asked_for_are_shown(logs):
    report = batch_report(logs, ["validation"], None)

    assert "validation" in report
    assert "training" not in report


def test_a_set_that_has_nothing_yet_is_left_out(logs):
    assert batch_report(logs, ["test"], None).count("\n") == 1


def test_only_what_is_shown_is_computed(logs):
    logs["current"]["test"] = Logs(batch=Logs(loss=Lazy(lambda: pytest.fail("nobody asked for it"))))

    assert "0.250" in batch_report(logs, ["training"], None)


def test_a_row_shows_the_first_of_a_tuple_and_nests_dicts():
    assert metrics_row("test", {"f1": {"a": 1, "b": 2}}).split("\n") == [
        "test           : ",
        "                 f1",
        "                 ├── a             1",
        "                 └── b             2",
    ]
    assert (
        metrics_row("test", {"bleu": (0.5, "details"), "n": 3})
        == "test           : bleu          0.500, n             3."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.001, "0.001"),
        (0.00099, "9.90e-04"),
        (-1234.5678, "-1234.568"),
        (100_000.0, "1.00e+05"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1_000_000, "1000000"),
        ((), "()"),
        ("text", "text"),
    ],
)
def test_values_are_shown_shortly(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (86_400, "1 day, 0:00:00")])
def test_durations_are_shown_as_clocks_do(seconds, text):
    assert as_clock(seconds) == text


def shown_batches(printed):
    return [
        int(line.split("Batch ")[1].split("/")[0].split("\t")[0]) for line in printed.split("\n") if "\tBatch " in line
    ]


@pytest.mark.parametrize(("period", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (200, [0])])
def test_the_first_batch_of_an_epoch_is_shown_and_each_period_later(train, capsys, period, expected):
    train(DATASET, [LogProgress(log_period=period)], num_epochs=2)
    printed = capsys.readouterr().out

    assert shown_batches(printed) == expected * 2
    assert printed.count("READY - Duration") == 2


def test_a_condition_decides_instead_of_the_period(train, capsys):
    asked = []

    def fifth(logs, batch):
        asked.append(batch)
        return logs["current"]["batch_step"] == 5

    train(DATASET, [LogProgress(log_period=1, log_condition_func=fifth)])

    assert shown_batches(capsys.readouterr().out) == [5]
    assert [batch is DATASET[0] for batch in asked] == [True] * 7


def test_without_batch_level_only_epochs_are_shown(train, capsys):
    train(DATASET, [LogProgress(log_period=1, batch_level=False)])
    printed = capsys.readouterr().out

    assert shown_batches(printed) == []
    assert printed.count("READY - Duration") == 1


def test_metrics_that_were_logged_are_shown(train, evaluator, capsys):
    loggers = [TrainingMetricsLogger(evaluator), TestMetricsLogger([np.full(2, 0.75)], "validation", evaluator)]
    train(DATASET, [*loggers, LogProgress()])
    printed = capsys.readouterr().out

    assert "Batch:\ntraining       : loss          1.000.\n" in printed
    assert "Computed over dataset:\nvalidation     : loss          0.750.\n" in printed


@pytest.mark.parametrize(("rank", "shows"), [(0, True), (1, False)])
def test_only_the_first_process_prints(make_trainer, make_manager, mean_model, on_rank, capsys, rank, shows):
    trainer = make_trainer(mean_model)
    trainer.adapter = on_rank(trainer.adapter, rank)
    make_manager(DATASET, [LogProgress(log_period=1)], trainer=trainer).start_training()

    assert bool(capsys.readouterr().out) is shows


def test_the_time_to_go_is_the_time_of_this_epoch_so_far_for_each_batch_that_is_left(train, capsys, monkeypatch):
    # A clock that goes on by an hour at each batch: 3 batches after the epoch's start 4 are left of 7.
    hours = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: hours[0] * 3600)

    def another_hour(logs, batch):
        hours[0] += 1
        return logs["current"]["batch_step"] in (2, 6)

    train(DATASET, [LogProgress(log_condition_func=another_hour)])
    lines = [line for line in capsys.readouterr().out.split("\n") if "\tETA " in line]

    assert [line.split("\t")[2] for line in lines] == ["ETA 4:00:00", "ETA 0:00:00"]


def test_no_time_to_go_is_shown_where_nobody_knows_how_long_an_epoch_is(train, capsys):
    train(iter(DATASET), [LogProgress()])

    assert "ETA" not in capsys.readouterr().out


@pytest.mark.parametrize("period", [0, -1, 1.5, True])
def test_a_period_is_a_count(period):
    with pytest.raises(ConfigurationError, match="log_period must be a whole number of at least 1, not"):
        LogProgress(log_period=period)


@pytest.mark.parametrize("names", ["training", [1]])
def test_set_names_are_a_list_of_names(names):
    with pytest.raises(ConfigurationError, match=r"set_names must be a list of names such as \[\"training\"\], not"):
        LogProgress(set_names=names)


def test_a_set_that_nobody_writes_is_refused_when_the_manager_is_made(make_manager, evaluator):
    validation = TestMetricsLogger(DATASET, "validation", evaluator)
    make_manager(DATASET, [LogProgress(set_names=["training", "validation"]), validation])

    with pytest.raises(ConfigurationError, match="LogProgress needs the metric path 'validatoin', which nobody writes"):
        make_manager(DATASET, [LogProgress(set_names=["training", "validatoin"]), validation])
