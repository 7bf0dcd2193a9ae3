"""Rows of an embedding that a batch asks for several times have one gradient: the sum."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from mlpug.trainers import TrainingManager

WORDS, SIZE, RATE, NUM_EPOCHS = 6, 3, 0.05, 3
OPTIONS = [
    {},
    {"batch_chunk_size": 100},
    {"gradient_clip_norm": math.inf},
    {"gradient_clip_value": math.inf},
    {"on_non_finite": "raise"},
    {"gradient_accumulation_steps": 1, "batch_chunk_size": 100, "gradient_clip_norm": math.inf},
]
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(RATE),
    "SGD": lambda: keras.optimizers.SGD(RATE, momentum=0.9),
    "RMSprop": lambda: keras.optimizers.RMSprop(RATE),
}
numbers = np.random.default_rng(3)
FIRST = numbers.normal(size=(WORDS, SIZE))
BATCHES = [(np.array(ids), numbers.normal(size=(4, SIZE))) for ids in ([1, 1, 1, 2], [0, 2, 2, 5], [4, 4, 4, 4])]


class TrainModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(WORDS, SIZE, embeddings_initializer=keras.initializers.Constant(FIRST))
        self.table.build(())

    def call(self, batch_data, evaluate_settings=None, inference_mode=None):
        ids, targets = batch_data
        return ops.mean(ops.square(self.table(ids) - ops.cast(targets, "float32")))


def trained(backend, make_optimizer, **options):
    model = TrainModel()
    trainer = backend.mlp.trainers.DefaultTrainer(
        make_optimizer(), model.table, eager_mode=backend.eager_mode, **options
    )
    trainer.set_training_model(model)
    TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS).start_training()
    return model.table.get_weights()[0]


def adam_by_hand():
    """In double precision; all rows move, as for any other weight (Kingma and Ba, 2015)."""
    table, mean, square = FIRST.copy(), np.zeros_like(FIRST), np.zeros_like(FIRST)
    for step, (ids, targets) in enumerate(BATCHES * NUM_EPOCHS, start=1):
        gradient = np.zeros_like(table)
        np.add.at(gradient, ids, 2 * (table[ids] - targets) / targets.size)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = RATE * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        table = table - rate * mean / (np.sqrt(square) + 1e-7)
    return table


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_they_are_added_up_before_they_are_squared(backend, options):
    np.testing.assert_allclose(trained(backend, OPTIMIZERS["Adam"], **options), adam_by_hand(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_option_that_changes_nothing_changes_nothing(backend, optimizer, options):
    make = OPTIMIZERS[optimizer]
    np.testing.assert_allclose(trained(backend, make, **options), trained(backend, make), rtol=1e-6, atol=1e-7)


def test_a_ported_run_without_chunks_is_that_of_fit(backend):
    def make():
        model = keras.Sequential([keras.Input((), dtype="int32"), TrainModel().table])
        model.compile(keras.optimizers.Adam(RATE), "mse")
        return model

    ids = np.concatenate([ids for ids, _ in BATCHES])
    targets = np.concatenate([targets for _, targets in BATCHES]).astype("float32")
    native, ported = make(), make()
    native.fit(ids, targets, batch_size=4, epochs=NUM_EPOCHS, shuffle=False, verbose=0)
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(ported, batch_size=4, shuffle=False)
    TrainingManager(trainer, (ids, targets), num_epochs=NUM_EPOCHS).start_training()
    np.testing.assert_array_equal(ported.get_weights()[0], native.get_weights()[0])
