"""What tf.data's own functions draw: other numbers in each epoch, and in a resumed run those that would have come."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

NUM_BATCHES, NUM_EPOCHS = 4, 3


def ones():
    return tf.data.Dataset.from_tensor_slices(np.ones((8, 2, 2, 1), "float32"))


def mapped(function):
    return ones().shuffle(8, seed=3).batch(2).map(function)


def with_generator(number):
    own = tf.random.Generator.from_seed(number)
    return mapped(lambda x: x + own.normal(tf.shape(x)))


def with_layer(number):
    noise = keras.layers.GaussianNoise(0.5, seed=number)
    return mapped(lambda x: noise(x, training=True))


def with_layers(number):
    steps = keras.Sequential([keras.layers.RandomTranslation(0.4, 0.4, seed=number), keras.layers.GaussianNoise(0.5)])
    return mapped(lambda x: steps(x, training=True))


def with_counter(number):
    count = tf.Variable(number * 0.0)
    return mapped(lambda x: x + count.assign_add(1.0))


def with_operation(number):
    return mapped(lambda x: x + tf.random.normal(tf.shape(x), seed=7))


def with_python(number):
    own = np.random.default_rng(number)
    return mapped(lambda x: x + tf.numpy_function(lambda: np.float32(own.normal()), [], tf.float32))


def from_generator(number):
    own = np.random.default_rng(number)

    def samples():
        for _ in range(8):
            yield own.normal(size=(2, 2, 1)).astype("float32")

    return tf.data.Dataset.from_generator(samples, output_signature=tf.TensorSpec((2, 2, 1), tf.float32)).batch(2)


# By what draws.
DRAWING = {
    "tf.random.Generator": with_generator,
    "a layer": with_layer,
    "several layers": with_layers,
    "a variable": with_counter,
    "an operation": with_operation,
}
IN_PYTHON = {"Python in a map": with_python, "a Python generator": from_generator}
WAYS = {"by default": {}, "with a seed": {"seed": 5}}


class Recorder(Callback):
    """Writes down the batches, as sums by epoch."""

    def __init__(self):
        self.batches = []

    def on_batch_training_completed(self, batch, logs):
        x = batch[0] if isinstance(batch, tuple) else batch
        self.batches.append((logs["current"]["epoch"], float(np.asarray(x, float).sum())))


class Still:
    """A training model with nothing to learn."""

    def __init__(self):
        self.gradients = {"weight": np.zeros(1), "bias": np.zeros(())}

    def __call__(self, batch, evaluate_settings, inference_mode):
        return 0.0


def trained(data, keeper=None, resume_from=None, **options):
    """By the core's own loop."""
    trainer = fake_trainer(GradientDescent(LinearRegression(num_features=1).parameters))
    trainer.set_training_model(Still())
    return _run(trainer, data, keeper, resume_from, **options)


def ported(backend, data, keeper=None, resume_from=None, **options):
    """By Keras's own loop."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model)
    return _run(trainer, data.map(lambda x: (x, tf.zeros((2, 1)))), keeper, resume_from, **options)


def _run(trainer, data, keeper, resume_from, **options):
    recorder = Recorder()
    callbacks = [recorder] if keeper is None else [recorder, keeper]
    TrainingManager(trainer, data, NUM_EPOCHS, callbacks, **options).start_training(resume_from)
    return recorder.batches


def assert_resumes(train, make, keeper, **options):
    tf.random.set_seed(11)
    whole = train(make(1), keeper=keeper, **options)
    epochs = [sorted(value for epoch, value in whole if epoch == number) for number in range(NUM_EPOCHS)]
    # By default an operation with a seed draws the same in each iterator, as in any loop over such a dataset.
    assert (epochs[0] != epochs[1] != epochs[2] != epochs[0]) == (make is not with_operation or bool(options))
    for path, done in [keeper.saved[place] for place in (1, NUM_BATCHES, NUM_BATCHES + 2)]:
        tf.random.set_seed(11)
        assert train(make(50), resume_from=path, **options) == whole[done:]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", [*DRAWING, *IN_PYTHON])
def test_a_resumed_training_model_goes_on_with_the_numbers_that_would_have_come(tmp_path, kind, options):
    assert_resumes(trained, (DRAWING | IN_PYTHON)[kind], Keeper(tmp_path), **options)


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", [*DRAWING, *IN_PYTHON])
def test_so_does_a_compiled_model(backend, tmp_path, kind, options):
    def train(*arguments, **more):
        return ported(backend, *arguments, **more)

    assert_resumes(train, (DRAWING | IN_PYTHON)[kind], Keeper(tmp_path), **options)
