"""What a run of Keras changes in plain attributes, and nothing keeps, is named at the first save; nothing else is."""

import keras
import numpy as np
import pytest
from compiled_models import NUM_SAMPLES, Sequence, arrays, batches
from unkept_names import named

from mlpug.callbacks import Callback, CheckpointManager
from mlpug.trainers import TrainingManager


class Scaled(keras.layers.Layer):
    """Reads plain attributes, and has variables that nobody would miss."""

    def __init__(self):
        super().__init__()
        self.level, self.history, self.rates = 1, [], {"rate": 0.5}
        self.counted = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds, self.mean = keras.random.SeedGenerator(1), keras.metrics.Mean()

    def call(self, x, training=False):
        if training:
            self.counted.assign_add(1.0)
        return x * self.rates["rate"] + keras.random.normal((5,), seed=self.seeds) * sum(self.history) + self.level


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.dense, self.drop = Scaled(), keras.layers.Dense(3), keras.layers.Dropout(0.2)
        self.temperature = np.ones(2)

    def call(self, x, training=False):
        return self.drop(self.dense(self.first(x)), training=training) / self.temperature[0]


class Loss(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.margin = 0.5

    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True) + self.margin


class Served(Sequence):
    """Shuffles as `fit` has it, and counts."""

    def __init__(self, items):
        super().__init__(items)
        self.served, self.rounds = 0, 0

    def __getitem__(self, index):
        self.served += 1
        x, y = super().__getitem__(index)
        return x + np.float32(self.served), y

    def on_epoch_end(self):
        self.rounds += 1
        self.items = self.items[::-1] if self.rounds % 2 else self.items


class Native(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count > 1000:
            raise RuntimeError


class Curriculum(Callback):
    """Changes what the model reads, as scripts do."""

    def __init__(self, model, loss=None):
        self.model, self.loss, self.count = model, loss, 0

    def on_batch_training_completed(self, batch, logs):
        self.count += 1
        if self.count > 1:
            self.model.first.level += 1
            self.model.first.history.append(1.0)
            self.model.temperature[0] += 1
            if self.loss is not None:
                self.loss.margin *= 0.9


class OnlyLooks(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(batch)


def start(trainer, data, callbacks, folder):
    saves = CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=3)
    return TrainingManager(trainer, data, num_epochs=2, callbacks=[Native(), OnlyLooks(), *callbacks, saves])


OF_MODEL = ["Model / scaled.history", "Model / scaled.level", "Model.temperature"]


@pytest.mark.parametrize("changes", [True, False], ids=["changed", "steady"])
def test_of_a_compiled_model_and_its_data(backend, tmp_path, changes):
    keras.utils.set_random_seed(3)
    keras.utils.clear_session()
    model, loss = Model(), Loss()
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model)
    callbacks = [Curriculum(model, loss)] if changes else []
    data = Served(batches()) if changes else Sequence(batches())
    with named() as names:
        start(trainer, data, callbacks, tmp_path).start_training()
    assert names == ([sorted([*OF_MODEL, "Model.loss.margin", "Served.served", "Curriculum.count"])] if changes else [])


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        predictions = self.model(x)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, predictions, from_logits=True))


@pytest.mark.parametrize("changes", [True, False], ids=["changed", "steady"])
def test_of_a_training_model(backend, tmp_path, changes):
    keras.utils.clear_session()
    model = Model()
    trainer = backend.mlp.trainers.DefaultTrainer(optimizers=keras.optimizers.Adam(0.01), model_components=model)
    with named() as names:
        manager = start(trainer, batches(), [Curriculum(model)] if changes else [], tmp_path)
        trainer.set_training_model(TrainModel(model))
        manager.start_training()
    expected = ["Curriculum.count", *(f"TrainModel / {name}" for name in ("model.temperature", "scaled.history"))]
    assert names == ([sorted([*expected, "TrainModel / scaled.level"])] if changes else [])


def test_arrays_and_their_order_are_not_the_scripts(backend, tmp_path):
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with named() as names:
        start(
            backend.mlp.trainers.DefaultTrainer.from_keras(model, batch_size=6), arrays(), [], tmp_path
        ).start_training()
    assert names == []
    assert NUM_SAMPLES > 6
