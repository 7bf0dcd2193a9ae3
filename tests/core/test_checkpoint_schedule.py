"""When checkpoints are made is a pure function, and this is what it says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlpug.callbacks.checkpoint_schedule import CheckpointSchedule, Plan, metric_value
from mlpug.errors import ConfigurationError

NOTHING = CheckpointSchedule(
    monitor_every=None,
    opt_mode="min",
    threshold=None,
    checkpoint_every=None,
    archive_every=None,
    latest=False,
    training=False,
    at_start=True,
)


def plans(schedule, metrics):
    """The plan at each position, and the best metric kept as a callback keeps it."""
    best, made = None, []
    for position, metric in enumerate(metrics, start=1):
        plan = schedule.plan(position, metric, best)
        best = metric if plan.is_best else best
        made.append(plan)
    return made


def positions(made, name):
    return [position for position, plan in enumerate(made, start=1) if getattr(plan, name)]


def test_a_period_of_n_means_after_each_n():
    schedule = replace(NOTHING, checkpoint_every=3, archive_every=4, latest=True, training=True)
    made = plans(schedule, [None] * 13)

    assert positions(made, "save_latest") == positions(made, "save_training") == [3, 6, 9, 12]
    assert positions(made, "archive") == [4, 8, 12]
    assert positions(made, "is_best") == positions(made, "save_best") == []


@pytest.mark.parametrize(("latest", "training"), [(True, False), (False, True), (False, False)])
def test_only_what_is_wanted_is_saved(latest, training):
    plan = replace(NOTHING, checkpoint_every=1, latest=latest, training=training).plan(1, None, None)

    assert plan == Plan(save_latest=latest, save_training=training)
    assert plan.saves == (latest or training)
    assert plan.saves_model == latest


@pytest.mark.parametrize("name", ["save_best", "save_latest", "archive"])
def test_a_model_is_needed_for_each_kind_of_model_checkpoint(name):
    assert Plan(**{name: True}).saves_model
    assert Plan(**{name: True}).saves
    assert not Plan(is_best=True).saves


@pytest.mark.parametrize(("at_start", "first"), [(True, [1, 2, 3]), (False, [2, 3])])
def test_the_first_batch_can_be_passed_over(at_start, first):
    schedule = replace(
        NOTHING, monitor_every=1, checkpoint_every=1, archive_every=1, latest=True, training=True, at_start=at_start
    )
    made = plans(schedule, [0.3, 0.2, 0.1])

    for name in ("is_best", "save_best", "save_latest", "archive", "save_training"):
        assert positions(made, name) == first
    assert [position for position in (1, 2, 3) if schedule.looks_at(position)] == first


def test_the_first_batch_isnt_a_period_of_its_own():
    schedule = replace(NOTHING, monitor_every=2, checkpoint_every=2, latest=True, at_start=True)

    assert schedule.plan(1, 0.5, None) == Plan()


def test_a_metric_counts_only_where_it_is_looked_at():
    made = plans(replace(NOTHING, monitor_every=3), [0.1, 0.1, 0.9, 0.2, 0.2, 0.8])

    assert positions(made, "is_best") == [3, 6]


@pytest.mark.parametrize(
    ("opt_mode", "metrics", "best"),
    [
        ("min", [0.5, 0.5, 0.6, 0.4, 0.4, 0.3], [1, 4, 6]),
        ("max", [0.5, 0.5, 0.4, 0.6, 0.6, 0.7], [1, 4, 6]),
        ("min", [None, 0.5, None, 0.4], [2, 4]),
        ("min", [math.nan, 0.5, math.nan, 0.4], [2, 4]),
        ("max", [math.nan, 0.5, math.nan, 0.6], [2, 4]),
        ("min", [math.inf, 0.5], [2]),
        ("max", [-math.inf, 0.5], [2]),
        ("min", [0.5, -math.inf, -math.inf], [1, 2]),
        ("max", [0.5, math.inf, math.inf], [1, 2]),
        ("min", [0.0, -0.0, -1e-300], [1, 3]),
    ],
)
def test_what_is_best(opt_mode, metrics, best):
    made = plans(replace(NOTHING, monitor_every=1, opt_mode=opt_mode), metrics)

    assert positions(made, "is_best") == positions(made, "save_best") == best


@pytest.mark.parametrize(("opt_mode", "metrics"), [("min", [0.5, 0.25, 0.125]), ("max", [-0.5, -0.25, -0.125])])
def test_a_best_model_is_saved_from_the_threshold_on(opt_mode, metrics):
    schedule = replace(NOTHING, monitor_every=1, opt_mode=opt_mode, threshold=metrics[1])
    made = plans(schedule, metrics)

    assert positions(made, "is_best") == [1, 2, 3]
    assert positions(made, "save_best") == [2, 3]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (None, None),
        ((0.5, {"a": 1}), 0.5),
        ((None, 1), None),
        (np.float32(0.5), 0.5),
        (np.array(0.25), 0.25),
        (np.int64(2), 2.0),
    ],
)
def test_the_value_of_a_metric(value, expected):
    found = metric_value("validation.dataset.loss", value)

    assert found == expected
    assert type(found) in (float, type(None))


def test_a_metric_that_is_no_number_names_the_cure():
    with pytest.raises(
        ConfigurationError, match=r"validation\.f1 is a dict: name one of its values.*validation\.f1\.a"
    ):
        metric_value("validation.f1", {"a": 0.5})
    for value in ("good", (), [0.5], np.zeros(2), {}):
        with pytest.raises(ConfigurationError, match=r"must be the path of a number, and a\.b is a"):
            metric_value("a.b", value)


@pytest.mark.parametrize("name", ["monitor_every", "checkpoint_every", "archive_every"])
@pytest.mark.parametrize("period", [0, -1, 2.5, True, "5"])
def test_an_impossible_period_is_refused(name, period):
    with pytest.raises(ConfigurationError, match=r"must be a whole number of at least 1, not .* Leave it out"):
        replace(NOTHING, **{name: period})


@pytest.mark.parametrize("threshold", ["0.5", math.nan, math.inf, True, [0.5]])
def test_a_threshold_that_is_no_number_is_refused(threshold):
    with pytest.raises(ConfigurationError, match="metric_checkpoint_threshold must be a number"):
        replace(NOTHING, threshold=threshold)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigurationError, match=r"must be \"min\" .* or \"max\" .*, not 'lowest'"):
        replace(NOTHING, opt_mode="lowest")
