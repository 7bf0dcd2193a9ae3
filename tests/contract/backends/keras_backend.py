"""What the Keras adapter's two backends share in the contract suite."""

import contextlib
import inspect

import keras
import numpy as np
from contract.backends.base import NUM_FEATURES

LEARNING_RATE = 0.05


class KerasBackend:
    """A subclass names `mlp` and trains by hand."""

    calls_python_at_each_batch = False  # compiled: the training model's code runs when it is traced
    eager_mode = False
    is_bit_equal = False
    rounding = 1e-6
    random_generator = (
        keras.random.SeedGenerator,
        lambda own: float(keras.ops.convert_to_numpy(keras.random.normal((), seed=own))),
    )

    def __init__(self):
        self.model = new_model()
        self.optimizer = keras.optimizers.SGD(LEARNING_RATE)

    def trainer(self, **arguments):
        arguments.setdefault("eager_mode", self.eager_mode)
        return self.mlp.trainers.DefaultTrainer(optimizers=self.optimizer, model_components=self.model, **arguments)

    def training_model(self, spy=None, returns=None):
        return TrainModel(self.model, spy, returns)

    def counting_regression(self, **arguments):
        model = _CountingRegression()
        arguments.setdefault("eager_mode", self.eager_mode)
        trainer = self.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.05), model.linear, **arguments)
        return trainer, model, lambda: np.append(*model.linear.get_weights())

    def two_regressions(self, returns, **arguments):
        model = _TwoRegressions(returns)
        arguments.setdefault("eager_mode", self.eager_mode)
        parts = {"first": model.first, "second": model.second}
        arguments.setdefault("trainable_variables", parts)
        optimizers = {"first": keras.optimizers.SGD(0.05), "second": keras.optimizers.SGD(0.1)}
        trainer = self.mlp.trainers.DefaultTrainer(optimizers, parts, **arguments)
        return trainer, model, lambda: [np.append(*part.get_weights()) for part in parts.values()]

    def without_parameters(self):
        self.model.trainable = False
        self.trainer().set_training_model(self.training_model())

    def weights(self):
        return weights_of(self.model)

    def without_dropout(self):
        """There is none."""

    def square_root(self, loss):
        return keras.ops.sqrt(loss)

    def native_callback(self, hear):
        return Native(hear)

    def gradients_are_on(self):
        return False  # gradients are of what a tape or a transformation was given

    def is_the_hosts_own(self):
        """Whether the library itself is at work, and not the adapter."""
        return any(place in frame.filename for frame in inspect.stack(context=0) for place in self.hosts_own_places)

    hosts_own_places = ("tensorflow/python/ops/math_grad.py",)  # eager gradients of a mean read its size

    @contextlib.contextmanager
    def transfers(self):
        """Counts every way in which an array of the backend can reach Python, also on a CPU."""
        kind, names = self.array_type, self.ways_to_host
        seen, originals = [], {name: getattr(kind, name) for name in names}
        depth = [0]

        def counting(name):
            def transfer(array, *arguments, **options):
                if depth[0] == 0 and not self.is_the_hosts_own():  # one way may go by another
                    seen.append(name)
                depth[0] += 1
                try:
                    return originals[name](array, *arguments, **options)
                finally:
                    depth[0] -= 1

            return transfer

        try:
            for name in names:
                setattr(kind, name, counting(name))
            yield seen
        finally:
            for name, original in originals.items():
                setattr(kind, name, original)


class _CountingRegression(keras.Model):
    def __init__(self):
        super().__init__()
        self.linear = keras.Sequential(
            [keras.Input((NUM_FEATURES,)), keras.layers.Dense(1, kernel_initializer="zeros")]
        )

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, counts = (keras.ops.cast(part, "float32") for part in batch_data)
        predictions, total = self.linear(x)[:, 0], keras.ops.sum(counts)
        loss = keras.ops.sum(counts * keras.ops.square(predictions - y)) / total
        mean = keras.ops.sum(counts * predictions) / keras.ops.maximum(total, 1)
        return loss, total, {"predictions": predictions, "mean": mean}


class _TwoRegressions(keras.Model):
    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.first, self.second = (
            keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(1, kernel_initializer="zeros")])
            for _ in range(2)
        )

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = (keras.ops.cast(part, "float32") for part in batch_data)
        losses = [
            keras.ops.mean(keras.ops.square(part(x)[:, 0] - target))
            for part, target in ((self.first, y), (self.second, -2 * y))
        ]
        return self.returns(*losses), keras.ops.shape(y)[0]


class TrainModel(keras.Model):
    def __init__(self, model, spy=None, returns=None):
        super().__init__()
        self.model, self.spy, self.returns = model, spy, returns

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        if self.spy is not None:
            self.spy(batch_data, evaluate_settings, inference_mode)
        x, y = _arrays(batch_data)
        predictions = keras.ops.squeeze(self.model(x), axis=1)
        loss = keras.ops.mean(keras.ops.square(predictions - keras.ops.cast(y, predictions.dtype)))
        if evaluate_settings is not None:
            loss = loss * evaluate_settings["scale"]
        results = loss, keras.ops.shape(y)[0], predictions
        return results if self.returns is None else self.returns(*results)


class Native(keras.callbacks.Callback):
    def __init__(self, hear):
        super().__init__()
        self.hear = hear

    def on_train_begin(self, logs=None):
        self.hear("training_started")

    def on_epoch_begin(self, epoch, logs=None):
        self.hear("epoch_started")

    def on_train_batch_begin(self, batch, logs=None):
        self.hear("batch_started")

    def on_train_batch_end(self, batch, logs=None):
        self.hear("batch_ended")

    def on_epoch_end(self, epoch, logs=None):
        self.hear("epoch_ended")


def new_model():
    """Always with the same first weights."""
    model = keras.Sequential(
        [keras.Input((NUM_FEATURES,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)]
    )
    random = np.random.default_rng(3)
    model.set_weights([random.normal(size=weight.shape, scale=0.3) for weight in model.weights])
    return model


def weights_of(model):
    return {str(index): weight for index, weight in enumerate(model.get_weights())}


def _arrays(batch_data):
    """x and y from any nesting that the tests use."""
    if isinstance(batch_data, dict):
        return batch_data["x"], batch_data["nested"]["y"]
    if hasattr(batch_data, "x"):
        return batch_data.x, batch_data.y
    return batch_data
