"""A compiled model on generators, and one that isn't compiled by the backend, is what its own ``fit`` makes of it."""

import itertools

import keras
import numpy as np
import pytest
from compiled_models import (
    BATCH_SIZE,
    NUM_EPOCHS,
    NativeRun,
    OwnTrainStep,
    PortedRun,
    Sequence,
    arrays,
    assert_same_weights,
    batches,
    own_compute_loss,
    own_train_step,
    sequential,
    unbuilt,
    weighted,
)

from mlpug.callbacks import Callback
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning

RUNS_OUT = pytest.mark.filterwarnings("ignore:Your input ran out of data")  # what Keras says of it
WEIGHTS = {0: 1.0, 1: 3.0}


def endless():
    """Its rounds of four batches aren't epochs of three."""
    yield from itertools.cycle(batches())


def finite():
    yield from batches()


def assert_equal(ported, native):
    assert ported.logs.seen == native.logs.seen
    assert_same_weights(ported.model, native.model)
    losses = [(training, validation) for kind, _, training, validation in ported.ours.seen if kind == "epoch_end"]
    for (training, validation), logs in zip(
        losses, [logs for kind, _, logs in native.logs.seen if kind == "epoch_end"], strict=True
    ):
        of_dataset = {} if validation is None else validation["dataset"]
        assert training | {f"val_{name}": value for name, value in of_dataset.items()} == logs


@pytest.mark.parametrize("make", [sequential, unbuilt, own_compute_loss, own_train_step])
def test_an_endless_generator_goes_on_from_epoch_to_epoch(backend, make):
    native = NativeRun(make, endless, shuffle=False, num_epochs=3, steps_per_epoch=3)
    ported = PortedRun(backend.mlp, make, endless, num_epochs=3, num_batches_per_epoch=3).start()
    assert_equal(ported, native)


@RUNS_OUT
@pytest.mark.parametrize("make", [sequential, unbuilt])
def test_a_finite_generator_is_an_epoch(backend, make):
    native = NativeRun(make, finite, shuffle=False, num_epochs=1)
    assert_equal(PortedRun(backend.mlp, make, finite, num_epochs=1).start(), native)


@RUNS_OUT
def test_an_epoch_of_what_is_left_of_a_generator_warns(backend):
    native = NativeRun(sequential, finite, shuffle=False, steps_per_epoch=3)
    ported = PortedRun(backend.mlp, sequential, finite, num_batches_per_epoch=3)
    with pytest.warns(MlpugWarning, match="ended after 1 batches in epoch 1, before num_batches_per_epoch=3"):
        ported.start()
    assert_equal(ported, native)


class Stream:
    """What fit doesn't take: without a length, and again and again."""

    def __iter__(self):
        return finite()


def test_of_data_that_fit_does_not_take_only_batches_are_steps(backend):
    ported = PortedRun(backend.mlp, sequential, Stream).start()
    assert int(ported.model.optimizer.iterations.numpy()) == NUM_EPOCHS * len(batches())


def test_a_generator_that_has_nothing_for_an_epoch_is_an_error(backend):
    ported = PortedRun(backend.mlp, sequential, finite, num_epochs=3, num_batches_per_epoch=2)
    with (
        pytest.warns(UserWarning, match="ran out of data"),
        pytest.raises(DatasetError, match=r"gave no batches in epoch 2.*read only once"),
    ):
        ported.start()


def test_a_generator_that_is_used_up_is_said_by_keras(backend):
    """Keras keeps the two batches that it has looked at, and each later epoch has them again."""
    with pytest.warns(UserWarning, match="ran out of data"):
        native = NativeRun(sequential, finite, shuffle=False, num_epochs=3)
    with pytest.warns(UserWarning, match="ran out of data"):
        ported = PortedRun(backend.mlp, sequential, finite, num_epochs=3).start()
    assert_equal(ported, native)
    assert [event for event, *_ in native.logs.seen].count("batch_end") == len(batches()) + 2 + 2


@pytest.mark.parametrize("make", [sequential, unbuilt, own_train_step])
def test_a_generator_that_gives_nothing_is_an_error(backend, make):
    ported = PortedRun(backend.mlp, make, lambda: iter(()), validation_data=arrays())
    with pytest.raises(DatasetError, match=r"gave no batches.*read only once"):
        ported.start()


def test_a_generator_function_is_refused_as_fit_does(backend):
    with pytest.raises(ConfigurationError, match="must be an iterable of batches, not a function"):
        PortedRun(backend.mlp, sequential, lambda: endless)


class CountsValidations(keras.callbacks.Callback):
    """Gives the batch of the validation that asks: how far TensorFlow reads ahead of one is up to its speed."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.given = []

    def on_test_begin(self, logs=None):
        self.count += 1

    def batches(self):
        while True:
            self.given.append(self.count)
            yield batches()[self.count]


def test_validation_batches_come_from_a_generator_that_goes_on(backend):
    def options(counter):
        return {"num_epochs": 3, "validation_data": counter.batches(), "validation_steps": 3, "callbacks": [counter]}

    natively, by_mlpug = CountsValidations(), CountsValidations()
    native = NativeRun(sequential, endless, shuffle=False, steps_per_epoch=3, **options(natively))
    ported = PortedRun(backend.mlp, sequential, endless, num_batches_per_epoch=3, **options(by_mlpug)).start()
    assert_equal(ported, native)
    assert set(by_mlpug.given) == set(natively.given) == {0, 1, 2, 3}
    assert by_mlpug.given.count(0) == natively.given.count(0) == 2  # once, before any validation, and for each of them


class StopsAtStart(Callback):
    def on_training_start(self, *args, **kwargs):
        self.manager.stop_training()


def test_a_run_that_is_stopped_before_its_first_batch_ends(backend):
    ported = PortedRun(backend.mlp, unbuilt, batches, callbacks=[StopsAtStart()]).start()
    assert "batch_end" not in [event for event, *_ in ported.ours.seen]


class HasUnused(keras.Model):
    """A layer that it doesn't call never is built."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = keras.layers.Dense(3), keras.layers.Dense(2)

    def call(self, x):
        return self.used(x)


def has_unused():
    model = HasUnused()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


@pytest.mark.filterwarnings("ignore:`build..` was called on layer")  # by TensorFlow's fit too
def test_a_layer_may_be_unused(backend):
    options = {"validation_data": arrays()}
    native = NativeRun(has_unused, lambda: Sequence(batches()), shuffle=False, **options)
    assert_equal(PortedRun(backend.mlp, has_unused, batches, **options).start(), native)


class LooksInside(OwnTrainStep):
    """What a model is compiled with run_eagerly for: its step looks at the numbers."""

    seen = ()

    def train_step(self, *arguments):
        x, y = arguments[-1]
        numbers = [array.numpy() if keras.config.backend() == "tensorflow" else np.asarray(array) for array in (x, y)]
        self.seen = [*self.seen, *(float(each.sum()) for each in numbers)]
        return super().train_step(*arguments)

    def test_step(self, *arguments):
        x, _ = arguments[-1]
        assert type(x).__name__ in ("EagerTensor", "ndarray", "ArrayImpl")
        assert keras.config.backend() == "jax" or x.numpy().shape[1] == 5
        return super().test_step(*arguments)


def looks_inside():
    model = LooksInside()
    model.compile(keras.optimizers.Adam(0.02))
    return model


def eager(make):
    def made():
        model = make()
        model.run_eagerly = True
        return model

    return made


OF_ARRAYS = {"batch_size": BATCH_SIZE, "validation_data": arrays(9, seed=1)}
EAGER = {
    "sequential": (sequential, arrays, OF_ARRAYS),
    "unbuilt": (unbuilt, arrays, OF_ARRAYS),
    "own compute_loss": (own_compute_loss, arrays, OF_ARRAYS),
    "own train_step": (looks_inside, arrays, OF_ARRAYS),
    "own train_step, PyDataset": (looks_inside, lambda: Sequence(batches()), {}),
    "class weights": (weighted, arrays, {"batch_size": BATCH_SIZE, "class_weight": WEIGHTS}),
    "class weights, PyDataset": (weighted, lambda: Sequence(batches()), {"class_weight": WEIGHTS}),
}


@pytest.mark.parametrize("case", EAGER)
def test_a_model_that_runs_eagerly_trains_as_in_fit(backend, case):
    make, data, options = EAGER[case]
    native = NativeRun(eager(make), data, **options)
    ported = PortedRun(backend.mlp, eager(make), data, **options).start()
    assert_equal(ported, native)
    if make is looks_inside:
        assert ported.model.seen == native.model.seen
        assert len(native.model.seen) == 2 * NUM_EPOCHS * len(batches())


@pytest.mark.parametrize("case", ["unbuilt", "own train_step", "class weights"])
def test_a_model_that_runs_eagerly_goes_on_as_if_it_had_never_stopped(backend, tmp_path, case):
    make, data, options = EAGER[case]
    whole = PortedRun(backend.mlp, eager(make), data, folder=tmp_path, **options).start()
    for place in (0, 3, 4, 6):
        path, _ = whole.keeper.saved[place]
        resumed = PortedRun(backend.mlp, eager(make), data, seed=1000 + place, **options).start(path)
        assert_same_weights(resumed.model, whole.model)
        assert resumed.logs.seen == whole.logs.seen[len(whole.logs.seen) - len(resumed.logs.seen) :]


def test_a_batch_is_evaluated_by_a_test_step_that_looks_inside(backend):
    x, y = arrays(9, seed=1)
    ported = PortedRun(backend.mlp, eager(looks_inside), arrays, **OF_ARRAYS).start()
    expected = ported.model.evaluate(x, y, batch_size=9, verbose=0, return_dict=True)
    assert float(ported.trainer.adapter.evaluate((x, y), None).loss) == pytest.approx(expected["loss"], rel=1e-6)


class Losses(Callback):
    def __init__(self):
        self.of_epochs = []

    def on_epoch_completed(self, logs):
        self.of_epochs.append(logs.at("training.epoch.loss"))


@pytest.mark.parametrize("make", [sequential, eager(sequential), eager(looks_inside)])
def test_beside_a_fit_on_a_generator_the_run_is_the_same(backend, make):
    given = {"shuffle": False, "steps_per_epoch": 3}
    native, losses = NativeRun(make, endless, **given), Losses()
    beside = NativeRun(make, endless, callbacks=[backend.mlp.callbacks.as_native(losses)], **given)
    assert beside.logs.seen == native.logs.seen
    assert_same_weights(beside.model, native.model)
    assert losses.of_epochs == [logs["loss"] for kind, _, logs in native.logs.seen if kind == "epoch_end"]
