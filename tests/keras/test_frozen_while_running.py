"""Weights that a callback freezes while a run trains: as in ``fit``, and the same in a run that goes on."""

import keras
import numpy as np
import pytest
from compiled_models import PortedRun, arrays
from contract.keeper import Keeper

from mlpug import checkpoints
from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager

NUM_EPOCHS = 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCHES = [tuple(part[start : start + 6] for part in arrays(24)) for start in range(0, 24, 6)]


def net():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )


class Freezes(keras.callbacks.Callback):
    """Swaps which of the first layers are trained, when an epoch begins or in it."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.epoch, self.at_batch, self.net = epoch, batch, None
        self.now = None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if epoch == self.epoch and self.at_batch is None:
            self.swap()

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.at_batch):
            self.swap()

    def swap(self):
        for layer in self.net.layers[:2]:
            layer.trainable = not layer.trainable


def train_model(backend, freezes, callbacks=(), resume_from=None, eager=False, **options):
    class TrainModel(keras.Model):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def call(self, batch_data, evaluate_settings, inference_mode=None):
            return LOSS(batch_data[1], self.net(batch_data[0], training=not inference_mode))

    freezes.net = model = net()
    trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.Adam(0.05), model, eager_mode=eager, **options)
    manager = TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS, callbacks=[*callbacks, freezes])
    trainer.set_training_model(TrainModel(model))
    manager.start_training(resume_from=resume_from)
    return outcome(model)


def compiled(freezes, eager):
    def make():
        freezes.net = model = net()
        model.compile(keras.optimizers.Adam(0.05), LOSS, run_eagerly=eager)
        return model

    return make


def train_compiled(backend, freezes, callbacks=(), resume_from=None, eager=False, **options):
    callbacks = [*callbacks, freezes]
    options = {"batch_size": 6, "shuffle": False, "seed": None, **options}
    make = compiled(freezes, eager)
    run = PortedRun(backend.mlp, make, lambda: arrays(22), callbacks=callbacks, num_epochs=NUM_EPOCHS, **options)
    return outcome(run.start(resume_from).model)


def outcome(model):
    flags = [variable.trainable for variable in model.weights]
    return [*model.get_weights(), np.array(flags), np.array([layer.trainable for layer in model.layers])]


def fitted(freezes, eager=False):
    model = compiled(freezes, eager)()
    model.fit(*arrays(22), batch_size=6, epochs=NUM_EPOCHS, shuffle=False, verbose=0, callbacks=[freezes])
    return outcome(model)


def assert_same(one, other):
    assert len(one) == len(other)
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, yours)


def needs(name):
    return pytest.mark.skipif(keras.config.backend() != name, reason=f"of {name}")


CASES = [
    (train_model, {}, (1, None)),
    (train_model, {}, (0, None)),
    (train_model, {"eager": True}, (1, 1)),
    (train_model, {"batch_chunk_size": 3}, (1, None)),
    (train_compiled, {}, (1, 1)),
    (train_compiled, {}, (0, None)),
    (train_compiled, {"eager": True}, (1, None)),
]


@needs("tensorflow")
@pytest.mark.parametrize(("train", "options", "at"), CASES)
def test_it_goes_on(backend, tmp_path, train, options, at):
    keras.utils.set_random_seed(1)
    keeper = Keeper(tmp_path)
    expected = train(backend, Freezes(*at), [keeper], **options)
    assert not expected[-1][0]
    for number in (2, 7):
        path = [path for path, done in keeper.saved if done == number][-1]
        keras.utils.set_random_seed(9)
        again = Keeper(tmp_path / str(number))
        again.folder.mkdir()
        assert_same(train(backend, Freezes(*at), [again], path, **options), expected)
    keras.utils.set_random_seed(5)
    assert_same(train(backend, Freezes(*at), [], again.saved[1][0], **options), expected)


@needs("tensorflow")
@pytest.mark.parametrize(("eager", "at"), [(False, (1, None)), (False, (0, None)), (True, (1, 1))])
def test_a_compiled_model_trains_on_as_in_fit(backend, eager, at):
    keras.utils.set_random_seed(1)
    expected = fitted(Freezes(*at), eager)
    keras.utils.set_random_seed(1)
    assert_same(train_compiled(backend, Freezes(*at), eager=eager), expected)


@needs("tensorflow")
def test_what_the_script_freezes_anew_and_files_of_the_first_version(backend, tmp_path):
    keras.utils.set_random_seed(1)
    keeper = Keeper(tmp_path)
    train_model(backend, Freezes(9), [keeper])
    path = next(path for path, done in keeper.saved if done == 6)
    state = checkpoints.load(path)
    assert state.pop("trained") == {"now": {}, "traced": {}}
    checkpoints.save(path, state)
    assert not train_model(backend, Freezes(2), [], path)[-1][0]


@needs("tensorflow")
def test_weights_that_no_optimizer_knows_are_refused_by_name(backend):
    class Unfreezes(Freezes):
        def __init__(self):
            super().__init__(0)

        def swap(self):
            self.net.layers[0].trainable = True

    class Frozen(Unfreezes):
        @property
        def net(self):
            return self.model_

        @net.setter
        def net(self, model):
            self.model_ = model
            if model is not None:
                model.layers[0].trainable = False

    with pytest.raises(ConfigurationError, match=r"dense.*/kernel.* were unfrozen after training had begun"):
        train_model(backend, Frozen())


@needs("jax")
@pytest.mark.parametrize("at", [(0, None), (1, None), (1, 1), (2, 3)])
@pytest.mark.parametrize("eager", [False, True])
def test_jax_refuses_it_by_name(backend, eager, at):
    with pytest.raises(ConfigurationError, match=r"were frozen after training had begun"):
        train_model(backend, Freezes(*at), eager=eager)


@needs("jax")
@pytest.mark.parametrize("at", [(0, None), (1, None), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 3}])
def test_a_compiled_model_fails_on_jax_as_in_fit(backend, options, at):
    with pytest.raises((TypeError, ValueError)):
        fitted(Freezes(*at))
    with pytest.raises((TypeError, ValueError)):
        train_compiled(backend, Freezes(*at), **options)
