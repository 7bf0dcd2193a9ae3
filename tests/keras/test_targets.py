"""from_keras: features without targets, where the compiled loss compares with targets, are refused in a sentence."""

import traceback

import keras
import numpy as np
import pytest

from mlpug.errors import DatasetError
from mlpug.trainers import TrainingManager

X = np.linspace(-1, 1, 8, dtype="float32")[:, None]
NO_TARGETS = "is compiled with a loss that needs targets, and the {} has features only. Give (x, y), or batches that"


class Halves(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (X[index * 4 : index * 4 + 4],)


class WithNone(Halves):
    def __getitem__(self, index):
        return (*super().__getitem__(index), None)


class OwnLoss(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred**2)


class OfPredictions(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return keras.ops.mean(y_pred**2)


class Added(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def model_of(loss="mse", kind=keras.Sequential, last=(), **options):
    model = kind([keras.Input((1,)), keras.layers.Dense(1), *last])
    model.compile(keras.optimizers.SGD(0.1), loss, **options)
    return model


def start(backend, model, data, **options):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model, **options)
    manager = TrainingManager(trainer, data)
    manager.start_training()


KNOWN = {
    "an array": lambda: X,
    "a tuple": lambda: (X,),
    "no array": lambda: (X, None),
    "a dict": lambda: {"input": X},
    "batches": lambda: [(X[:4],), (X[4:],)],
}


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 2}], ids=["whole", "chunks"])
@pytest.mark.parametrize("data", KNOWN)
def test_known_data_without_targets_is_refused_when_the_manager_is_made(backend, data, options):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model_of(), **options)
    with pytest.raises(DatasetError) as raised:
        TrainingManager(trainer, KNOWN[data]())
    assert NO_TARGETS.format("training data") in str(raised.value)


@pytest.mark.parametrize("loss", ["mse", keras.losses.MeanSquaredError(), lambda y, y_pred: (y - y_pred) ** 2])
@pytest.mark.parametrize(
    "data",
    [Halves, lambda: ((X[i : i + 4],) for i in (0, 4)), lambda: iter([(X,)])],
    ids=["a PyDataset", "a generator", "an iterator"],
)
def test_a_batch_without_targets_ends_training_before_it_is_trained_on(backend, data, loss):
    model = model_of(loss)
    before = model.get_weights()
    with pytest.raises(DatasetError) as raised:
        start(backend, model, data())
    assert NO_TARGETS.format("data") in str(raised.value)
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 2}], ids=["whole", "chunks"])
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("data", [lambda: (X[i : i + 4] for i in (0, 4)), WithNone], ids=["bare arrays", "None"])
def test_what_isnt_even_a_batch_with_targets_is_told_as_briefly(backend, data, eager, options):
    model = model_of(metrics=["mae"], run_eagerly=eager)
    with pytest.raises(DatasetError) as raised:
        start(backend, model, data(), **options)
    assert NO_TARGETS.format("data") in str(raised.value)
    assert len(traceback.format_exception(raised.value)) < 9


def test_a_generator_of_bare_arrays_for_a_model_that_needs_no_targets_is_told_how_to_write_it(backend):
    with pytest.raises(DatasetError, match=r"Each batch of a generator must be a tuple for fit.*: yield \(x,\)\."):
        start(backend, model_of(None, OwnLoss), (X for _ in range(2)))


def test_an_error_of_the_datas_own_arrives_as_it_was_raised(backend):
    raised = ValueError("it did not match the expected structure")

    class Fails:
        def __iter__(self):
            raise raised

    with pytest.raises(ValueError, match=r"^it did") as caught:
        start(backend, model_of(), Fails())
    assert caught.value is raised


def test_validation_data_without_targets_is_refused_when_the_trainer_is_made(backend):
    with pytest.raises(DatasetError) as raised:
        backend.mlp.trainers.DefaultTrainer.from_keras(model_of(), validation_data=(X,))
    assert NO_TARGETS.format("validation data") in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: model_of(None, OwnLoss),
        lambda: model_of("mse", OwnLoss),
        lambda: model_of(OfPredictions()),
        lambda: model_of(None, last=[Added()]),
    ],
    ids=["compute_loss", "beside a loss", "a class of losses", "add_loss"],
)
@pytest.mark.parametrize("data", [KNOWN["a tuple"], KNOWN["batches"], Halves], ids=["arrays", "batches", "a PyDataset"])
def test_a_loss_that_needs_none_trains(backend, make, data):
    model = make()
    model.layers[0].set_weights([np.array([[2.0]]), np.array([0.0])])
    start(backend, model, data())
    assert abs(model.layers[0].get_weights()[0].item()) < 2.0
