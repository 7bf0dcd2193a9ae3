"""What a hook resets when training starts, it resets in a run that begins, and not in one that goes on."""

import keras
import numpy as np
import pytest
from compiled_models import PortedRun, arrays, sequential
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

NUM_EPOCHS = 2
BATCHES = [tuple(part[start : start + 6] for part in arrays(24)) for start in range(0, 24, 6)]


class TrainModel(keras.Model):
    """Its loss depends on a metric and on a variable of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.scale = keras.Variable(1.0, trainable=False)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        self.scale.assign_add(0.1)
        outputs = self.model(batch_data[0], training=True)
        return self.scale * keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(batch_data[1], outputs, from_logits=True)
        )


def reset(model, optimizer):
    """All that a run goes on with."""
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(np.full(variable.shape, 0.1))
    for variable in optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    optimizer.learning_rate = 0.02


class Resets(Callback):
    """mlpug's own."""

    def __init__(self):
        self.given, self.count = None, 0

    def on_training_start(self, logs):
        self.count = 0
        reset(*self.given())

    def on_batch_training_completed(self, batch, logs):
        self.count += 1

    def get_state(self):
        return self.count

    def set_state(self, state):
        self.count = state


class NativeResets(keras.callbacks.Callback):
    """Keras's."""

    def __init__(self):
        super().__init__()
        self.given, self.count = None, 0

    def on_train_begin(self, logs=None):
        self.count = 0
        reset(*self.given())

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


def train_model(backend, resets, callbacks, resume_from=None):
    model, optimizer = sequential(), keras.optimizers.Adam(0.02)
    resets.given = lambda: (model, optimizer)
    trainer = backend.mlp.trainers.DefaultTrainer(optimizer, model)
    manager = TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS, callbacks=[*callbacks, resets])
    train_model = TrainModel(model)
    trainer.set_training_model(train_model)
    manager.start_training(resume_from=resume_from)
    return [*model.get_weights(), *map(np.array, optimizer.variables), np.array(train_model.scale), resets.count]


def train_compiled(backend, resets, callbacks, resume_from=None):
    made = []

    def make():
        made.append(sequential())
        return made[-1]

    resets.given = lambda: (made[-1], made[-1].optimizer)
    callbacks = [*callbacks, resets]
    options = {"num_epochs": NUM_EPOCHS, "batch_size": 6, "seed": None}
    run = PortedRun(backend.mlp, make, lambda: arrays(24), callbacks=callbacks, **options)
    model = run.start(resume_from).model
    return [*model.get_weights(), *map(np.array, model.optimizer.variables), resets.count]


@pytest.mark.parametrize("kind", [Resets, NativeResets])
@pytest.mark.parametrize("train", [train_model, train_compiled])
def test_a_start_hook_undoes_nothing(backend, tmp_path, train, kind):
    keras.utils.set_random_seed(1)
    keeper = Keeper(tmp_path)
    whole = train(backend, kind(), [keeper])
    for batches in (3, 4):  # within an epoch, and at the end of one
        path = [path for path, done in keeper.saved if done == batches][-1]
        keras.utils.set_random_seed(1)
        resumed = train(backend, kind(), [], resume_from=path)
        assert len(resumed) == len(whole)
        for one, other in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(one, other)
