"""The run on Keras, on the backend whose module of mlpug was imported first."""

import random
from typing import Any

import keras
import numpy as np
from reliability.runs.parts import Places, Record, Settings, WholeRun, manager_of

BACKEND = keras.backend.backend()
KINDS = ("tf.data", "PyDataset", "list") if BACKEND == "tensorflow" else ("PyDataset", "list")
NUM_SAMPLES, BATCH_SIZE, NUM_FEATURES = 16, 4, 6

if BACKEND == "tensorflow":
    import tensorflow as tf

    import mlpug.tensorflow as mlp
else:
    import mlpug.jax as mlp


def make(settings: Settings, passed: Places) -> WholeRun:
    """The run, and its start values, from the seed."""
    keras.utils.set_random_seed(settings.seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            layers.Dense(16),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(1),
        ]
    )
    has_plateau = settings.kind == "list"  # which sets the learning rate, and so would a schedule
    schedule = 0.01 if has_plateau else keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.95)
    optimizer = keras.optimizers.Adam(schedule)
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=model)
    record = Record(settings.journal, list, passed)
    log_loss = LogLoss(record, passed)
    stop = keras.callbacks.EarlyStopping("validation_loss", min_delta=100, patience=settings.patience, mode="min")
    plateau = keras.callbacks.ReduceLROnPlateau("validation_loss", min_delta=100, patience=1, mode="min")
    native = [stop, *([plateau] if has_plateau else [])]
    validation = [samples(range(7))]
    manager = manager_of(
        settings, trainer, dataset_of(settings.kind, passed), validation, record, [log_loss, *native], passed
    )
    trainer.set_training_model(TrainModel(model, passed))
    return WholeRun(manager, record, lambda: weights_of(model), lambda: [numbers_of(callback) for callback in native])


def samples(ids: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.asarray(ids)
    x = np.sin(np.arange(NUM_FEATURES) * 0.1 + ids[:, np.newaxis]).astype("float32")
    return ids, x, (ids % 3).astype("float32")


def dataset_of(kind: str, passed: Places) -> Any:
    if kind == "PyDataset":
        return Reordered(passed)
    if kind == "list":
        return [samples(range(start, start + BATCH_SIZE)) for start in range(0, NUM_SAMPLES, BATCH_SIZE)]
    tf.random.set_seed(
        3
    )  # as a script does that is started again: TensorFlow's shuffles keep their seeds to themselves
    return tf.data.Dataset.from_tensor_slices(samples(range(NUM_SAMPLES))).shuffle(10).batch(BATCH_SIZE)


class Reordered(keras.utils.PyDataset):
    """Batches in an order that changes from epoch to epoch, with noise, both from the global random state."""

    def __init__(self, passed: Places) -> None:
        super().__init__()
        self._passed = passed
        self._order = np.arange(NUM_SAMPLES)

    def __len__(self) -> int:
        return NUM_SAMPLES // BATCH_SIZE

    def __getitem__(self, index: int) -> Any:
        self._passed("data")
        ids, x, y = samples(self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE])
        return ids, x + np.float32(0.01 * np.random.standard_normal(x.shape) + 0.01 * random.random()), y

    def on_epoch_end(self) -> None:
        np.random.shuffle(self._order)


class TrainModel(keras.Model):
    """The mean squared error of the model; compiled, it is called by Python once."""

    def __init__(self, model: keras.Model, passed: Places) -> None:
        super().__init__()
        self.model = model
        self._passed = passed

    def call(self, batch: Any, evaluate_settings: Any, inference_mode: Any = None) -> Any:
        if not inference_mode:
            self._passed("model")
        _, x, y = batch
        predictions = keras.ops.squeeze(self.model(x), axis=1)
        return keras.ops.mean(keras.ops.square(predictions - y)), keras.ops.shape(y)[0], predictions


class LogLoss(keras.callbacks.Callback):
    """Gives Keras's own callbacks mlpug's validation loss in their logs, which are those of all callbacks."""

    def __init__(self, record: Record, passed: Places) -> None:
        super().__init__()
        self._record = record
        self._passed = passed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._passed("native")
        logs["validation_loss"] = float(self._record.manager.logs.at("validation.dataset.loss"))


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {str(number): weight for number, weight in enumerate(model.get_weights())}


def numbers_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    kept = ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter")
    return {name: getattr(callback, name) for name in kept if hasattr(callback, name)}
