"""A callback may be given a name: its state is kept under it, and messages show it."""

import copy
import pickle

import numpy as np
import pytest

from mlpug.callbacks import Callback
from mlpug.errors import ConfigurationError

DATASET = [np.ones(1)]


def refused(make_manager, callbacks, message, **options):
    with pytest.raises(ConfigurationError, match=message) as raised:
        make_manager(DATASET, callbacks, **options)
    return str(raised.value)


class Named(Callback):
    def __init__(self, name=None):
        super().__init__(name=name)

    def get_state(self):
        return 0


def test_a_callback_may_be_given_a_name_which_messages_show(make_manager, train, caplog):
    class Fails(Named):
        def required_metric_paths(self):
            return self.paths

        def on_epoch_start(self, logs):
            raise RuntimeError

    fails = Fails("mine")
    fails.paths = ["nowhere"]
    assert (fails.name, Named().name) == ("mine", "Named")
    refused(make_manager, [fails], "^Fails 'mine' needs the metric path 'nowhere'")
    fails.paths = []
    train(DATASET, [Named("a"), Named("b"), fails, Named()], on_callback_error="log")
    assert "Fails.on_epoch_start of 'mine' failed" in caplog.text
    refused(make_manager, [Named("a"), Named("a")], "under the same name, 'a'")
    fails.on_epoch_begin = print
    refused(make_manager, [fails], "^Fails.on_epoch_begin of 'mine' is not a hook")


@pytest.mark.parametrize("name", ["", 3, b"mine"])
def test_a_name_is_a_string(name):
    with pytest.raises(ConfigurationError, match="The name of a callback must be a string that isn't empty, not"):
        Named(name)


def test_a_name_that_is_given_counts_more_than_that_of_the_class():
    class Own(Named):
        name = "own"

    class Computed(Named):
        @property
        def name(self):
            return f"computed from {super().name}"

    assert (Own().name, Own("mine").name, Computed("mine").name) == ("own", "mine", "computed from mine")
    assert copy.deepcopy(Own("mine")).name == pickle.loads(pickle.dumps(Named("mine"))).name == "mine"


def test_arguments_for_a_class_behind_a_callback_reach_it():
    class Behind:
        def __init__(self, size, name="none"):
            self.given = size, name

    class Mixed(Callback, Behind):
        def __init__(self):
            super().__init__(3, name="theirs")

    assert (Mixed().given, Mixed().name) == ((3, "theirs"), "Mixed")
