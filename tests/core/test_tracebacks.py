"""An error of mlpug's own shows what the script did, and where it was raised, but nothing of the loops in between."""

import traceback

import numpy as np
import pytest

from mlpug.callbacks import Callback
from mlpug.errors import CheckpointWriteError, ConfigurationError, DatasetError
from mlpug.validation import check_training_call


def functions(error):
    return [entry.name for entry in traceback.extract_tb(error.__traceback__)]


def raised_by(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


class Typo(Callback):
    def on_batch_training_completed(self, batch, logs):
        self.look(logs)

    def look(self, logs):
        logs.at("training.batch.los")


def test_of_what_a_callback_did_its_own_lines_are_there(train):
    error = raised_by(ConfigurationError, lambda: train([np.ones(1)], [Typo()]))
    names = functions(error)
    assert names[-3:] == ["on_batch_training_completed", "look", "check"]
    assert not {"start_training", "_train", "fit", "tell"} & set(names)


def test_where_nothing_of_the_script_was_under_way_only_its_call_is_there(train):
    names = functions(raised_by(DatasetError, lambda: train(iter([]))))
    assert names[-1] == "_check_length"
    assert not {"start_training", "_train", "fit", "tell"} & set(names)


def test_causes_are_as_short(train):
    class Wraps(Callback):
        def on_epoch_start(self, logs):
            try:
                raise OSError(28, "full")
            except OSError as error:
                raise CheckpointWriteError(28, "can't") from error

    error = raised_by(CheckpointWriteError, lambda: train([np.ones(1)], [Wraps()]))
    assert functions(error.__cause__) == ["on_epoch_start"]


def test_an_exception_of_the_scripts_own_is_as_it_was_raised(train):
    class Fails(Callback):
        def on_epoch_start(self, logs):
            raise KeyError("mine")

    names = functions(raised_by(KeyError, lambda: train([np.ones(1)], [Fails()])))
    assert {"start_training", "_train", "fit"} <= set(names)
    assert names[-1] == "on_epoch_start"


def test_a_cause_that_leads_back_is_no_endless_loop(train):
    class Loops(Callback):
        def on_epoch_start(self, logs):
            first, second = ConfigurationError("first"), ConfigurationError("second")
            first.__cause__, second.__cause__ = second, first
            raise first

    assert str(raised_by(ConfigurationError, lambda: train([np.ones(1)], [Loops()]))) == "first"


def test_what_is_refused_when_it_is_set_has_no_second_traceback():
    error = raised_by(ConfigurationError, lambda: check_training_call(lambda batch: 0.5, "Net.forward"))
    assert error.__cause__ is error.__context__ is None
