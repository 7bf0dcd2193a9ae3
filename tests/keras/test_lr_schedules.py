"""Keras's own schedules in mlpug's callback: they give the rate itself, by the step."""

import keras
import numpy as np
import pytest

from mlpug.callbacks import Callback, LRSchedulerWrapper
from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager

SCHEDULES = {
    "ExponentialDecay": lambda: keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5),
    "CosineDecay": lambda: keras.optimizers.schedules.CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2),
    "PiecewiseConstantDecay": lambda: keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.3, 0.2, 0.1]),
}
BATCHES = [(np.ones((2, 1), "float32"), np.ones((2, 1), "float32"))] * 3
NUM_EPOCHS = 2


class Loss(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean(keras.ops.square(self.dense(batch_data[0]) - batch_data[1]))


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_batch_training_completed(self, batch, logs):
        self.rates.append(logs.at("training_params.batch.lr"))


def make_manager(backend, learning_rate, callbacks):
    model = Loss()
    optimizer = keras.optimizers.SGD(learning_rate)
    trainer = backend.mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=model.dense)
    trainer.set_training_model(model)
    return TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS, callbacks=callbacks)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_are_those_of_an_optimizer_that_has_the_schedule_itself(backend, name):
    ours, keras_own = Rates(), Rates()
    make_manager(backend, 0.01, [LRSchedulerWrapper(SCHEDULES[name]()), ours]).start_training()
    make_manager(backend, SCHEDULES[name](), [keras_own]).start_training()

    schedule = SCHEDULES[name]()
    expected = [float(schedule(step)) for step in range(len(BATCHES) * NUM_EPOCHS)]
    np.testing.assert_array_equal(ours.rates, expected)
    # Read after the batch, when the optimizer has counted it already.
    np.testing.assert_array_equal(keras_own.rates[:-1], expected[1:])


def test_an_optimizer_that_has_a_schedule_is_refused_another(backend):
    with pytest.raises(ConfigurationError, match="has a schedule of its own"):
        make_manager(backend, SCHEDULES["ExponentialDecay"](), [LRSchedulerWrapper(lambda step: 1.0)])
