"""The order of a PyDataset's batches: as Keras's fit has it, and as it was in the run that is resumed.

Not compared with fit: random numbers that `__getitem__` draws, because fit calls it more often (on TensorFlow twice
beforehand) and ahead, in a thread; an order that `on_epoch_begin` draws, because on JAX it begins an epoch only to
look at a batch; and several workers, which mlpug leaves out.
"""

import random

import keras
import numpy as np
import pytest
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

NUM_BATCHES, NUM_EPOCHS = 3, 3


class Shuffled(keras.utils.PyDataset):
    """Shuffles in place what it has shuffled before; counts what is loaded."""

    def __init__(self, draw=np.random, noise=False):
        super().__init__()
        self.draw, self.noise = draw, noise
        self.order, self.loaded = list(range(NUM_BATCHES)), []

    def __len__(self):
        return NUM_BATCHES

    def __getitem__(self, index):
        self.loaded.append(self.order[index])
        noise = self.draw.uniform(0, 1) if self.noise else 0.0
        return np.array([[self.order[index], noise]], "float32"), np.ones((1, 1), "float32")

    def on_epoch_end(self):
        self.draw.shuffle(self.order)


class AsItIs(Shuffled):
    """Draws nothing."""

    def on_epoch_end(self):
        """As in its base."""


class AtBegin(Shuffled):
    """Shuffles when an epoch begins."""

    def on_epoch_begin(self):
        self.draw.shuffle(self.order)

    def on_epoch_end(self):
        """Nothing."""


KINDS = {
    "as it is": lambda number: AsItIs(),
    "numpy": lambda number: Shuffled(),
    "random": lambda number: Shuffled(random),
    "at the beginning": lambda number: AtBegin(),
    "noise": lambda number: Shuffled(noise=True),
    "own RandomState": lambda number: Shuffled(np.random.RandomState(5)),
    "own Generator": lambda number: Shuffled(np.random.default_rng(5)),
    "own Generator, without a seed": lambda number: Shuffled(np.random.default_rng(number)),
    "own Generator, noise": lambda number: Shuffled(np.random.default_rng(5), noise=True),
}
EACH_KIND = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


class Recorder(Callback):
    """Writes down the batches, and draws random numbers as others might."""

    def __init__(self, num_draws=1):
        self.batches, self.drawn = [], []
        self.num_draws = num_draws

    def on_batch_training_completed(self, batch, logs):
        self.batches.append((logs["current"]["epoch"], np.asarray(batch[0]).tolist()))
        self.draw()

    def draw(self):
        self.drawn += [(np.random.normal(), random.random()) for _ in range(self.num_draws)]


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


class Loss(keras.Model):
    """Of a model that is built by its first batch, or before."""

    def __init__(self, is_built):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        if is_built:
            self.dense.build((None, 2))

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean(keras.ops.square(self.dense(batch_data[0]) - batch_data[1]))


@pytest.fixture
def train(backend):
    """Trains, and gives the batches and what others drew."""

    def train(dataset, number=1, keeper=None, resume_from=None, is_built=True, recorder=None, **options):
        recorder = recorder or Recorder()
        model = Loss(is_built)
        trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.01), model.dense, eager_mode=True)
        callbacks = [recorder] if keeper is None else [recorder, keeper]
        manager = TrainingManager(trainer, dataset, callbacks=callbacks, **{"num_epochs": NUM_EPOCHS, **options})
        trainer.set_training_model(model)
        keras.utils.set_random_seed(number)
        manager.start_training(resume_from)
        return recorder.batches, recorder.drawn

    return train


def orders(batches):
    """The numbers of the batches, for each epoch."""
    return [[rows[0][0] for epoch, rows in batches if epoch == number] for number in range(NUM_EPOCHS)]


def assert_resumes_anywhere(train, make, keeper, **options):
    whole, drawn = train(make(1), keeper=keeper, **options)
    assert train(make(1), **options) == (whole, drawn)
    assert {done for _, done in keeper.saved} == set(range(1, len(whole) + 1))
    for path, done in keeper.saved[:-2]:  # at the last two all is done
        resumed = train(make(100 + done), 100 + done, resume_from=path, **options)
        assert (done, *resumed) == (done, whole[done:], drawn[done:])


@EACH_KIND
def test_a_run_resumed_after_any_batch_goes_on_with_the_next(train, make, keeper):
    assert_resumes_anywhere(train, make, keeper)


@pytest.mark.parametrize("kind", ["numpy", "own Generator", "at the beginning", "noise"])
def test_it_does_so_with_a_seed(train, kind, keeper):
    assert_resumes_anywhere(train, KINDS[kind], keeper, seed=3)


@pytest.mark.parametrize("options", [{"is_built": False}, {"num_batches_per_epoch": 2}], ids=str)
def test_it_does_so_where_a_batch_builds_the_model_and_in_shorter_epochs(train, options, keeper):
    assert_resumes_anywhere(train, KINDS["noise"], keeper, **options)


def test_batches_that_are_done_are_not_loaded_again(train, keeper):
    train(whole := Shuffled(), keeper=keeper)
    for path, done in keeper.saved[:-2]:
        train(resumed := Shuffled(), 100, resume_from=path)
        assert resumed.loaded == whole.loaded[done:]


class Native(keras.Sequential):
    """For Keras's own fit, which hands data over as the last argument on every backend."""

    def __init__(self):
        super().__init__([keras.Input((2,)), keras.layers.Dense(1)])
        self.seen = []

    def train_step(self, *arguments):
        self.seen.append(np.asarray(arguments[-1][0]).tolist())
        return super().train_step(*arguments)


class Draw(keras.callbacks.Callback):
    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def on_train_batch_end(self, batch, logs=None):
        self.recorder.draw()

    def on_epoch_end(self, epoch, logs=None):
        self.recorder.on_epoch_completed(logs)


@pytest.mark.parametrize(
    ("kind", "options", "arguments"),
    [
        ("as it is", {}, {"shuffle": False}),  # mlpug has no `shuffle`, which would shuffle the indices
        ("numpy", {}, {"shuffle": False}),
        ("own Generator", {}, {"shuffle": False}),
    ],
    ids=str,
)
def test_by_default_the_batches_are_those_that_fit_sees(train, kind, options, arguments):
    model, others = Native(), Recorder(**options)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", run_eagerly=True)
    keras.utils.set_random_seed(1)
    model.fit(KINDS[kind](1), epochs=NUM_EPOCHS, callbacks=[Draw(others)], verbose=0, **arguments)
    batches, drawn = train(KINDS[kind](1), recorder=Recorder(**options))
    assert [rows for _, rows in batches] == model.seen
    assert drawn == others.drawn


@pytest.mark.parametrize("name", [name for name in KINDS if name != "as it is"])
def test_with_a_seed_the_order_depends_on_it_and_the_epoch_alone(train, name):
    make = KINDS[name]
    found = orders(train(make(1), seed=3)[0])
    assert orders(train(make(2), 2, recorder=Recorder(num_draws=2), num_epochs=NUM_EPOCHS + 1, seed=3)[0]) == found
    other = orders(train(make(1), seed=4)[0])
    assert found[1:] != other[1:]


@EACH_KIND
def test_with_a_seed_the_dataset_takes_nothing_from_everybody_elses_random_numbers(train, make):
    batches = [(np.ones((1, 2), "float32"), np.ones((1, 1), "float32"))] * NUM_BATCHES
    assert train(make(1), seed=3)[1] == train(batches)[1]
