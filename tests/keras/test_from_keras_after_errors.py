"""A run that an error ended, where Keras's own callbacks had heard of something already, goes on as if it hadn't."""

from itertools import zip_longest

import keras
import numpy as np
import pytest
from compiled_models import (
    BATCH_SIZE,
    PortedRun,
    Sequence,
    arrays,
    batches,
    compiled,
)

from mlpug.callbacks import Callback

BATCHES_PER_EPOCH, NUM_EPOCHS = 4, 3
VALIDATION = {"validation_data": arrays(9, seed=1), "validation_batch_size": 5}


class ShuffledInPlace(Sequence):
    """What it shuffled before decides what it makes of the next shuffle."""

    def on_epoch_begin(self):
        np.random.shuffle(self.items)

    def on_epoch_end(self):
        np.random.shuffle(self.items)


class OfAnyLength:
    """Nobody knows how many there are."""

    def __iter__(self):
        return iter(batches())


DATA = {
    "arrays": (arrays, {"batch_size": BATCH_SIZE}),
    "list": (batches, {}),
    "PyDataset": (lambda: ShuffledInPlace(batches()), {}),
    "of any length": (OfAnyLength, {}),
}


class Events(keras.callbacks.Callback):
    """What it was told in all of training, by the way in which Keras's own callbacks remember: attributes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(["epoch begin", epoch])

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(["batch begin", batch])

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(["batch end", batch, logs["loss"]])

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(["epoch end", epoch, logs["loss"], logs["val_loss"]])


class FailsIn(keras.callbacks.Callback):
    def __init__(self, hook, num_batches=2 * BATCHES_PER_EPOCH):
        super().__init__()
        self.num_batches = num_batches
        setattr(self, hook, self.fail)

    def fail(self, place, logs=None):
        if int(self.model.optimizer.iterations) == self.num_batches:
            raise ZeroDivisionError("on purpose")


class OursFails(Callback):
    def on_epoch_completed(self, logs):
        if logs["current"]["epoch"] == 1:
            raise ZeroDivisionError("on purpose")


class OursFailsWithin(Callback):
    def __init__(self, num_batches):
        self.num_batches = num_batches

    def on_batch_training_start(self, batch, logs):
        if logs["current"]["global_iter"] == self.num_batches:
            raise ZeroDivisionError("on purpose")


FAILURES = {
    "arrays": [lambda: FailsIn("on_epoch_end")],
    "list": [
        lambda: FailsIn("on_train_batch_begin", BATCHES_PER_EPOCH + 2),
        lambda: OursFailsWithin(BATCHES_PER_EPOCH),
    ],
    "PyDataset": [lambda: FailsIn("on_test_batch_end"), OursFails],
    "of any length": [lambda: FailsIn("on_test_batch_end")],
}


def small():
    return compiled(keras.Sequential([keras.Input((5,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)]))


def run_of(backend, data, events, *others, folder=None, seed=5):
    make, options = DATA[data]
    return PortedRun(
        backend.mlp,
        small,
        make,
        folder=folder,
        seed=seed,
        num_epochs=NUM_EPOCHS,
        callbacks=[events, *others],
        **VALIDATION,
        **options,
    )


def where_they_differ(seen, expected):
    pairs = zip_longest(seen, expected)
    return [(place, *pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]][:2]


def same_weights(model, expected):
    return all(map(np.array_equal, model.get_weights(), expected.get_weights()))


@pytest.mark.parametrize("data", DATA)
def test_it_goes_on_as_if_it_had_never_stopped(backend, tmp_path, data):
    heard = Events()
    whole = run_of(backend, data, heard).start()
    wrong = []
    for place, make in enumerate(FAILURES[data]):
        folder = tmp_path / str(place)
        folder.mkdir()
        ended = run_of(backend, data, Events(), make(), folder=folder)
        with pytest.raises(ZeroDivisionError):
            ended.start()
        path, _ = ended.keeper.saved[-1]
        events = Events()
        resumed = run_of(backend, data, events, seed=1000).start(path)
        wrong += [(place, *each) for each in where_they_differ(events.seen, heard.seen)]
        wrong += [] if same_weights(resumed.model, whole.model) else [(place, "weights")]
    assert not wrong
