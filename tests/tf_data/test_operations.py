"""Operations of TensorFlow's own that draw in a step: named before a run that can't go on with their numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
DATA = [(X[:4], X[:4, :1]), (X[4:], X[4:, :1])]


class Noisy(keras.layers.Layer):
    def __init__(self, draw):
        super().__init__()
        self.seeds, self.own = keras.random.SeedGenerator(1), tf.random.Generator.from_seed(1)
        self.draw = draw

    def call(self, x):
        return x * self.draw(self, tf.shape(x))


def within(draw):
    """In a function of its own, which the step calls."""
    return lambda layer, shape: tf.cond(shape[0] > 0, lambda: draw(layer, shape), lambda: tf.ones(shape))


def uniform(layer, shape):
    return tf.random.uniform(shape)


@tf.function
def compiled(shape):
    return inner(shape)


@tf.function
def inner(shape):
    return tf.random.normal(shape)


NAMED = {
    "uniform": (uniform, "RandomUniform"),
    "with a seed": (lambda layer, shape: tf.random.normal(shape, seed=3), "RandomStandardNormal"),
    "dropout": (lambda layer, shape: tf.nn.dropout(tf.ones(shape), 0.5), "RandomUniform"),
    "in a branch": (within(uniform), "RandomUniform"),
    "in a function of a function": (lambda layer, shape: compiled(shape), "RandomStandardNormal"),
}
KEPT = {
    "SeedGenerator": lambda layer, shape: keras.random.uniform(shape, seed=layer.seeds),
    "tf.random.Generator": lambda layer, shape: layer.own.uniform(shape),
    "stateless": lambda layer, shape: tf.random.stateless_uniform(shape, seed=(1, 2)),
    "nothing": lambda layer, shape: tf.ones(shape),
}


class TrainModel(keras.Model):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean((self.net(batch_data[0]) - batch_data[1]) ** 2)


def run(backend, way, draw, callbacks, resume_from=None, num_epochs=2, eager=False):
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((4,)), Noisy(draw), keras.layers.Dense(1)])
    net.compile("sgd", "mse", run_eagerly=eager)
    if way == "as_native":
        beside = [backend.mlp.callbacks.as_native(*callbacks)] if callbacks else []
        net.fit(X, X[:, :1], 4, num_epochs, verbose=0, shuffle=False, callbacks=beside)
        return net.get_weights()
    if way == "from_keras":
        trainer = backend.mlp.trainers.DefaultTrainer.from_keras(net)
    else:
        trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.01), net, eager_mode=eager)
        trainer.set_training_model(TrainModel(net))
    TrainingManager(trainer, DATA, num_epochs, callbacks).start_training(resume_from)
    return net.get_weights()


EACH_WAY = pytest.mark.parametrize("way", ["from_keras", "DefaultTrainer"])
STEPS = [(way, eager) for way in ("from_keras", "DefaultTrainer", "as_native") for eager in (False, True)]
OTHER_STEPS = STEPS[1:2] + STEPS[3:]


@pytest.mark.parametrize(
    ("way", "eager", "kind"),
    [(way, False, kind) for way in ("from_keras", "DefaultTrainer") for kind in NAMED]
    + [(*step, kind) for step in OTHER_STEPS for kind in ("uniform", "in a function of a function")],
)
def test_they_are_named_once_where_states_are_kept(backend, tmp_path, way, eager, kind):
    draw, operation = NAMED[kind]
    with pytest.warns(MlpugWarning, match=rf"operations \({operation}\).* Use keras\.random with a") as told:
        run(backend, way, draw, [Keeper(tmp_path)], eager=eager)
    assert len([each for each in told if each.category is MlpugWarning]) == 1
    run(backend, way, draw, [], eager=eager)  # nobody could resume it: a warning would be an error


@pytest.mark.parametrize("eager", [False, True])
def test_where_as_native_saves_nothing_it_says_nothing(backend, eager):
    run(backend, "as_native", uniform, [Callback()], eager=eager, num_epochs=1)


@pytest.mark.parametrize(("way", "eager"), OTHER_STEPS)
@pytest.mark.parametrize("kind", ["SeedGenerator", "tf.random.Generator"])
def test_what_is_kept_isnt_named_in_other_steps_either(backend, tmp_path, way, eager, kind):
    run(backend, way, KEPT[kind], [Keeper(tmp_path)], eager=eager, num_epochs=1)


@EACH_WAY
@pytest.mark.parametrize("kind", KEPT)
def test_a_run_that_draws_from_what_is_kept_goes_on_with_it(backend, tmp_path, way, kind):
    keeper = Keeper(tmp_path)
    whole = run(backend, way, KEPT[kind], [keeper])
    for place in (0, 2):
        resumed = run(backend, way, KEPT[kind], [], keeper.saved[place][0])
        for one, other in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(one, other)
