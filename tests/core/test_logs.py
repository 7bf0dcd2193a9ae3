"""The logs object: lazy, nested, plain to read."""

import pytest

from mlpug.logs import Lazy, Logs


@pytest.fixture
def counted():
    """Makes a lazy value, and counts how often it is computed."""

    class Counted:
        def __init__(self, value):
            self.value = value
            self.computed = 0
            self.lazy = Lazy(self._compute)

        def _compute(self):
            self.computed += 1
            return self.value

    return Counted


def test_a_lazy_value_is_computed_when_read_and_only_once(counted):
    value = counted(0.5)
    logs = Logs(loss=value.lazy)

    assert value.computed == 0
    assert [logs["loss"], logs.get("loss"), logs["loss"]] == [0.5, 0.5, 0.5]
    assert value.computed == 1


def test_a_lazy_none_is_computed_once_too(counted):
    value = counted(None)
    logs = Logs(loss=value.lazy)

    assert (logs["loss"], logs["loss"], value.computed) == (None, None, 1)


def test_names_can_be_listed_counted_and_looked_for_without_computing(counted):
    value = counted(0.5)
    logs = Logs(loss=value.lazy, accuracy=1.0)

    assert list(logs) == ["loss", "accuracy"]
    assert list(logs.keys()) == ["loss", "accuracy"]
    assert (len(logs), "loss" in logs, "f1" in logs) == (2, True, False)
    assert value.computed == 0


def test_values_items_and_repr_read(counted):
    for read in (lambda logs: list(logs.values()), lambda logs: list(logs.items()), repr):
        value = counted(0.5)
        read(Logs(loss=value.lazy))
        assert value.computed == 1


def test_replacing_or_deleting_a_value_computes_nothing(counted):
    first, second = counted(1), counted(2)
    logs = Logs(a=first.lazy, b=second.lazy)
    logs["a"] = 3
    del logs["b"]

    assert logs.snapshot() == {"a": 3}
    assert (first.computed, second.computed) == (0, 0)


def test_clearing_computes_nothing(counted):
    value = counted(0.5)
    logs = Logs(loss=value.lazy)
    logs.clear()

    assert len(logs) == 0
    assert value.computed == 0


def test_an_error_while_computing_reaches_the_reader_and_the_value_can_be_read_again():
    failures = [ZeroDivisionError("first")]

    def compute():
        if failures:
            raise failures.pop()
        return 0.5

    logs = Logs(loss=Lazy(compute))
    with pytest.raises(ZeroDivisionError, match="first"):
        logs["loss"]

    assert logs["loss"] == 0.5


def test_a_deleted_or_unknown_name_is_a_key_error():
    logs = Logs(loss=0.5)
    del logs["loss"]

    with pytest.raises(KeyError, match="loss"):
        logs["loss"]
    with pytest.raises(KeyError, match="loss"):
        del logs["loss"]
    assert logs.get("loss") is None


def test_child_makes_what_is_missing_and_keeps_what_is_there():
    logs = Logs()
    logs.child("validation").child("dataset")["loss"] = 0.25
    logs.child("validation").child("batch")["loss"] = 0.5

    assert logs.snapshot() == {"validation": {"dataset": {"loss": 0.25}, "batch": {"loss": 0.5}}}


def test_a_path_starts_below_current():
    logs = Logs(epoch=3, current=Logs(epoch=2, validation=Logs(dataset=Logs(loss=0.25))))

    assert logs.at("epoch") == 2
    assert logs.at("validation.dataset.loss") == 0.25
    assert logs.at("validation.dataset") is logs["current"]["validation"]["dataset"]


def test_a_path_goes_on_inside_a_metric_that_is_a_dict():
    logs = Logs(current=Logs(validation=Logs(dataset=Logs(f1={"cat": 0.5}))))

    assert logs.at("validation.dataset.f1.cat") == 0.5


@pytest.mark.parametrize("path", ["training", "validation.batch.loss", "validation.dataset.loss.more", "epoch.loss"])
def test_a_path_that_leads_nowhere_is_none(path):
    logs = Logs(current=Logs(epoch=2, validation=Logs(dataset=Logs(loss=0.25))))

    assert logs.at(path) is None


def test_a_path_computes_only_what_it_leads_to(counted):
    loss, accuracy = counted(0.5), counted(1.0)
    logs = Logs(current=Logs(training=Logs(batch=Logs(loss=loss.lazy, accuracy=accuracy.lazy))))

    assert logs.at("training.batch.loss") == 0.5
    assert (loss.computed, accuracy.computed) == (1, 0)


def test_a_snapshot_is_plain_and_stays_as_it_was(counted):
    value = counted(0.5)
    logs = Logs(epoch=1, current=Logs(batch=Logs(loss=value.lazy)))
    snapshot = logs.snapshot()
    logs["epoch"] = 2
    logs["current"]["batch"]["loss"] = 0.75

    assert snapshot == {"epoch": 1, "current": {"batch": {"loss": 0.5}}}
    assert [type(level) for level in (snapshot, snapshot["current"], snapshot["current"]["batch"])] == [dict] * 3
    assert value.computed == 1
