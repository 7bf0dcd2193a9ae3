"""A callback of Keras calls self.model in a run of a training model: the user's model answers, or an error says so."""

import keras
import numpy as np
import pytest

from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager

X = np.linspace(-1, 1, 8, dtype="float32")[:, None]
Y = 2 * X


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings=None, inference_mode=False):
        x, y = batch_data
        return keras.ops.mean((self.model(x) - y) ** 2)


class Calls(keras.callbacks.Callback):
    def __init__(self, call, hook):
        super().__init__()
        self.found = []
        setattr(self, hook, lambda step, logs=None: self.found.append(call(self.model)))


def new_model(compiles=False):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    if compiles:
        model.compile(loss="mse", metrics=["mae"])
    return model


def train(backend, call, model, hook="on_train_batch_end", components=None):
    callback = Calls(call, hook)
    trainer = type(backend.trainer())(keras.optimizers.SGD(0.1), model if components is None else components)
    trainer.set_training_model(TrainModel(model))
    TrainingManager(trainer, [(X, Y)] * 2, num_epochs=2, callbacks=[callback]).start_training()
    return callback.found


def by_hand(kernel, bias):
    return X @ kernel + bias


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(X),
        lambda model: model(X, training=False),
        lambda model: model.predict(X, verbose=0),
        lambda model: model.predict_on_batch(X),
    ],
    ids=["call", "in inference mode", "predict", "a batch"],
)
def test_predictions_are_those_of_the_users_model_at_that_moment(backend, call, hook):
    model = new_model()

    def both(called):
        kernel, bias = (np.array(weight) for weight in model.get_weights())
        return np.asarray(call(called)), by_hand(kernel, bias)

    found = train(backend, both, model, hook)
    assert len(found) == {"on_train_batch_end": 4, "on_epoch_end": 2}[hook]
    for predicted, expected in found:
        np.testing.assert_allclose(predicted, expected, rtol=1e-6, atol=1e-7)
    assert not np.array_equal(found[0][1], found[-1][1])


@pytest.mark.parametrize(
    "call",
    [lambda model: model.evaluate(X, Y, verbose=0), lambda model: model.test_on_batch(X, Y)],
    ids=["evaluate", "a batch"],
)
def test_a_compiled_model_is_evaluated_and_another_is_told_what_to_do(backend, call):
    model = new_model(compiles=True)

    def both(called):
        errors = by_hand(*model.get_weights()) - Y
        model.reset_metrics()
        return call(called), [np.mean(errors**2), np.mean(np.abs(errors))]

    for found, expected in train(backend, both, model):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(
        ConfigurationError, match=r"a Sequential, isn't compiled: call compile\(loss=.*TestMetricsLogger"
    ):
        train(backend, call, new_model())


def test_looking_at_predictions_changes_nothing_of_training(backend):
    weights = []
    for call in (lambda model: None, lambda model: (model(X), model.predict(X, verbose=0))):
        keras.utils.set_random_seed(3)
        model = new_model()
        train(backend, call, model)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        (lambda model: {"whole": model, "last": model.layers[-1]}, r"several model components \(whole, last\)"),
        (lambda model: {"last": model.layers[-1]}, "is a Dense: make it a keras.Model, or call self.model"),
    ],
    ids=["several", "a layer"],
)
def test_without_one_model_an_error_says_what_to_call(backend, components, message):
    model = new_model()
    with pytest.raises(ConfigurationError, match=message):
        train(backend, lambda called: called.predict(X), model, components=components(model))


def test_a_layer_can_be_called(backend):
    model = new_model()
    (first, *_) = train(backend, lambda called: called(X).shape, model, components={"last": model.layers[-1]})
    assert tuple(first) == (8, 1)


def test_a_callback_that_trains_on_a_batch_of_its_own_is_refused(backend):
    with pytest.raises(ConfigurationError, match=r"train_on_batch\(...\) in a callback .*from_keras"):
        train(backend, lambda called: called.train_on_batch(X, Y), new_model())
