"""Compiled models as people have them, and what a run of one is compared with: the same by ``model.fit`` itself."""

import keras
import numpy as np
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

NUM_EPOCHS = 2
NUM_SAMPLES = 22
BATCH_SIZE = 6


def arrays(num_samples=NUM_SAMPLES, seed=7):
    """Features and classes."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(num_samples, 5)).astype("float32")
    return x, (x[:, :3].argmax(axis=1)).astype("int32")


def batches(num_samples=NUM_SAMPLES, with_weights=False):
    x, y = arrays(num_samples)
    parts = (x, y, np.linspace(0.2, 2, num_samples, dtype="float32")) if with_weights else (x, y)
    starts = range(0, num_samples, BATCH_SIZE)
    return [tuple(part[start : start + BATCH_SIZE] for part in parts) for start in starts]


class Sequence(keras.utils.PyDataset):
    """Batches as fit takes them."""

    def __init__(self, items):
        super().__init__()
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def layers():
    return [
        keras.layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
        keras.layers.Dropout(0.3),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.01)),
    ]


def compiled(model, **options):
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        **{"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"], **options},
    )
    return model


def sequential(**options):
    return compiled(keras.Sequential([keras.Input((5,)), *layers()]), **options)


def unbuilt(**options):
    return compiled(keras.Sequential(layers()), **options)


def one_layer(**options):
    """Its loss is one mean and nothing else."""
    return compiled(
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), loss="mse", metrics=["mse"], **options
    )


class OrderOfSamples(keras.metrics.Metric):
    """Depends on the order in which it sees the samples."""

    def __init__(self):
        super().__init__(name="order")
        self.value = self.add_weight(shape=(), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(0.5 * self.value + keras.ops.mean(keras.ops.cast(y_true, "float32")))

    def result(self):
        return 1.0 * self.value


def noting_order():
    return unbuilt(metrics=[OrderOfSamples()])


def weighted():
    return sequential(weighted_metrics=["accuracy"])


def functional():
    """Two outputs with a loss and metrics each."""
    inputs = keras.Input((5,))
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="tanh")(inputs))
    outputs = {
        "kind": keras.layers.Dense(3, name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss={"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.3},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    return model


class OwnComputeLoss(keras.Model):
    """As in the documentation of `Model.compute_loss`, with a metric of its own."""

    def __init__(self):
        super().__init__()
        self.stack = keras.Sequential(layers())
        self.margin = keras.metrics.Mean(name="margin")

    def call(self, x, training=False):
        return self.stack(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True))
        loss += sum(self.losses)
        self.margin.update_state(keras.ops.max(y_pred, axis=-1))
        return loss


def own_compute_loss():
    model = OwnComputeLoss()
    model.compile(keras.optimizers.Adam(0.02), metrics=["accuracy"])
    return model


class OwnTrainStep(keras.Model):
    """As in Keras's guides to ``train_step``, with metrics of its own."""

    def __init__(self):
        super().__init__()
        self.stack = keras.Sequential(layers()[:2] + layers()[3:])
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae = keras.metrics.MeanAbsoluteError(name="mae")

    def call(self, x, training=False):
        return self.stack(x, training=training)

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae]

    def loss_of(self, y, predictions):
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, predictions, from_logits=True))

    def targets(self, y):
        return keras.ops.one_hot(keras.ops.cast(y, "int32"), 3)

    if keras.config.backend() == "tensorflow":

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                predictions = self(x, training=True)
                loss = self.loss_of(y, predictions)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            self.loss_tracker.update_state(loss)
            self.mae.update_state(self.targets(y), predictions)
            return {metric.name: metric.result() for metric in self.metrics}

        def test_step(self, data):
            x, y = data
            predictions = self(x, training=False)
            self.loss_tracker.update_state(self.loss_of(y, predictions))
            self.mae.update_state(self.targets(y), predictions)
            return {metric.name: metric.result() for metric in self.metrics}

    else:

        def loss_and_updates(self, trainable, non_trainable, x, y, training):
            predictions, non_trainable = self.stateless_call(trainable, non_trainable, x, training=training)
            return self.loss_of(y, predictions), (predictions, non_trainable)

        def updated_metrics(self, values, loss, y, predictions):
            logs, new = {}, []
            for metric in self.metrics:
                own = values[len(new) : len(new) + len(metric.variables)]
                if metric.name == "loss":
                    own = metric.stateless_update_state(own, loss)
                else:
                    own = metric.stateless_update_state(own, self.targets(y), predictions)
                logs[metric.name] = metric.stateless_result(own)
                new += own
            return logs, new

        def train_step(self, state, data):
            import jax

            trainable, non_trainable, optimizer, metrics = state
            x, y = data
            gradient_of = jax.value_and_grad(self.loss_and_updates, has_aux=True)
            (loss, (predictions, non_trainable)), gradients = gradient_of(trainable, non_trainable, x, y, True)
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            logs, metrics = self.updated_metrics(metrics, loss, y, predictions)
            return logs, (trainable, non_trainable, optimizer, metrics)

        def test_step(self, state, data):
            trainable, non_trainable, metrics = state
            x, y = data
            loss, (predictions, non_trainable) = self.loss_and_updates(trainable, non_trainable, x, y, False)
            logs, metrics = self.updated_metrics(metrics, loss, y, predictions)
            return logs, (trainable, non_trainable, metrics)


def own_train_step():
    model = OwnTrainStep()
    model.compile(keras.optimizers.Adam(0.02))
    return model


class NativeLogs(keras.callbacks.Callback):
    """What a native callback sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch_begin", epoch, dict(logs or {})))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("batch_end", batch, dict(logs or {})))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("epoch_end", epoch, dict(logs or {})))


class OurLogs(Callback):
    """What mlpug's logs say at each batch and epoch."""

    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        training = logs["current"]["training"].snapshot()
        self.seen.append(("batch_end", logs["current"]["batch_step"], training["batch"]["loss"], training["epoch"]))

    def on_epoch_completed(self, logs):
        current = logs["current"].snapshot()
        self.seen.append(("epoch_end", current["epoch"], current["training"]["epoch"], current.get("validation")))


class NativeRun:
    """By ``model.fit``."""

    def __init__(self, make, data, callbacks=(), num_epochs=NUM_EPOCHS, **options):
        keras.utils.set_random_seed(5)
        self.model = make()
        self.logs = NativeLogs()
        given = data()
        x, y, weight = (*given, None, None)[:3] if isinstance(given, tuple) else (given, None, None)
        more = {"sample_weight": weight} if weight is not None else {}
        self.model.fit(x, y, epochs=num_epochs, verbose=0, callbacks=[*callbacks, self.logs], **more, **options)


class PortedRun:
    """By mlpug."""

    def __init__(
        self,
        mlp,
        make,
        data,
        callbacks=(),
        num_epochs=NUM_EPOCHS,
        folder=None,
        natives=(),
        seed=5,
        num_batches_per_epoch=None,
        **options,
    ):
        if seed is not None:
            keras.utils.set_random_seed(seed)
        self.model = make()
        self.trainer = mlp.trainers.DefaultTrainer.from_keras(self.model, **options)
        self.logs, self.ours = NativeLogs(), OurLogs()
        self.keeper = None if folder is None else Keeper(folder)
        keeper = [] if folder is None else [self.keeper]
        self.manager = TrainingManager(
            self.trainer,
            data(),
            num_epochs=num_epochs,
            num_batches_per_epoch=num_batches_per_epoch,
            callbacks=[*keeper, *callbacks, *natives, self.logs, self.ours],
        )

    def start(self, resume_from=None):
        self.manager.start_training(resume_from=resume_from)
        return self


def assert_same_weights(model, expected):
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
