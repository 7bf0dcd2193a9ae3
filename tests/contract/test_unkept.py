"""What a run changes in plain attributes, and nothing keeps, is named at the first save; nothing else is."""

import collections
import warnings

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, CheckpointManager
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager


class Memory:
    """What a model, a dataset or a callback may hold to remember something."""

    def __init__(self):
        self.steps = collections.deque(maxlen=3)
        self.mean = np.zeros(2)
        self.steady = {"rate": 0.5, "names": ["a"]}
        self.seen = []

    def add(self, number):
        self.steps.append((number, np.full(2, number)))
        self.mean = self.mean + number
        self.seen.append(number)

    def latest(self):
        return self.steps[-1], self.mean, self.steady


class Batches:
    """A dataset that counts its place, which a resumed run finds again, and what it has served."""

    def __init__(self):
        self.batches = make_batches()
        self.place = self.served = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.place = 0
        while self.place < len(self.batches):
            self.place += 1
            self.served += 1
            x, y = self.batches[self.place - 1]
            yield x, y + 0.01 * self.served


class BatchesWithState(Batches):
    def state_dict(self):
        return {"place": self.place, "served": self.served}

    def load_state_dict(self, state):
        vars(self).update(state)


class Changes(Callback):
    """Changes, at each batch, itself and the model."""

    def __init__(self, model, held):
        self.model, self.held = model, held
        self.count = 0

    def on_batch_training_completed(self, batch, logs):
        self.count += 1
        if self.held is not None:
            self.model.reward = 0.9 * self.model.reward + self.count
            self.held.add(self.count)
            if self.model.reward < 0 or self.held.latest() is None:
                self.manager.stop_training()


class ChangesWithState(Changes):
    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class SaysNothingIsState(Changes):
    def get_state(self):
        return None


def warnings_of(backend, folder, data, callback, held):
    trainer, model = backend.trainer(), backend.training_model()
    if held is not None:
        model.reward, model.memory = 0.0, held
    saves = CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=3)
    manager = TrainingManager(trainer, data, num_epochs=2, callbacks=[callback(model, held), saves])
    trainer.set_training_model(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training()
    return [str(each.message) for each in caught if issubclass(each.category, MlpugWarning)]


def test_what_changes_and_is_not_kept_is_named_in_one_warning(backend, tmp_path):
    (message,) = warnings_of(backend, tmp_path, Batches(), Changes, Memory())
    named = ("reward", "memory.steps", "memory.mean", "Batches.served", "Changes.count")
    assert [each for each in named if each not in message] == []
    others = ("memory.steady", "memory.seen", "place", "batches", "held", "model")
    assert not any(f".{each}" in message for each in others)
    assert "get_state and set_state" in message
    assert "state_dict and load_state_dict" in message


@pytest.mark.parametrize("callback", [ChangesWithState, SaysNothingIsState])
def test_nothing_is_named_where_all_is_kept(backend, tmp_path, callback):
    assert warnings_of(backend, tmp_path, BatchesWithState(), callback, held=None) == []
