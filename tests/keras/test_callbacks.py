"""What callbacks hear and see, and what they can change."""

import threading

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, TrainingMetricsLogger
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

LEARNING_RATE = 0.05
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # a few steps of sums over 8 values in single precision, epsilon 1.2e-7


class Regression(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 6))

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        predictions = keras.ops.squeeze(self.dense(keras.ops.cast(x, "float32")), axis=1)
        return keras.ops.mean(keras.ops.square(predictions - keras.ops.cast(y, "float32")))


@pytest.fixture(params=[False, True], ids=["compiled", "eager"])
def regression(backend, request):
    """A training model, and its trainer."""
    model = Regression()
    trainer = backend.mlp.trainers.DefaultTrainer(
        keras.optimizers.SGD(LEARNING_RATE), model.dense, eager_mode=request.param
    )
    trainer.set_training_model(model)
    return model, trainer


class Tell(Callback):
    def __init__(self, heard, name):
        self.heard, self._name = heard, name

    @property
    def name(self):
        return self._name

    def on_batch_training_start(self, batch, logs):
        self.heard.append(("start", self._name, threading.get_ident()))

    def on_batch_training_completed(self, batch, logs):
        self.heard.append(("end", self._name, threading.get_ident()))


class AsyncSafe(keras.callbacks.Callback):
    async_safe = True  # Keras may call it on a thread of its own, and every callback with it

    def __init__(self, heard):
        super().__init__()
        self.heard = heard

    def on_train_batch_begin(self, batch, logs=None):
        self.heard.append(("start", "native", threading.get_ident()))

    def on_train_batch_end(self, batch, logs=None):
        self.heard.append(("end", "native", threading.get_ident()))


@pytest.mark.parametrize("has_native", [False, True])
def test_callbacks_are_called_on_the_training_thread_in_order_for_every_batch(regression, has_native):
    _, trainer = regression
    heard = []
    native = [AsyncSafe(heard)] if has_native else []
    callbacks = [Tell(heard, "first"), *native, Tell(heard, "last")]
    TrainingManager(trainer, make_batches((8,) * 5), num_epochs=2, callbacks=callbacks).start_training()
    names = ["first", "native", "last"] if has_native else ["first", "last"]
    here = threading.get_ident()
    assert heard == [(event, name, here) for event in ("start", "end") for name in names] * 10


def test_native_callbacks_see_the_mean_loss_of_the_epoch_so_far(regression, train_by_hand):
    model, trainer = regression
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, logs))

    by_hand, batches = train_by_hand(*model.dense.get_weights(), LEARNING_RATE), make_batches((8, 8, 8, 5))
    TrainingManager(trainer, batches, num_epochs=2, callbacks=[Look()]).start_training()
    assert [batch for batch, _ in seen] == [0, 1, 2, 3] * 2
    assert all(set(logs) == {"loss"} and type(logs["loss"]) is float for _, logs in seen)
    expected = []
    for _ in range(2):
        losses, sizes = [], []
        for x, y in batches:
            losses.append(by_hand.step(x, y))
            sizes.append(len(y))
            expected.append(np.average(losses, weights=sizes))
    np.testing.assert_allclose([logs["loss"] for _, logs in seen], expected, rtol=1e-5)  # kept, each as it was


@pytest.mark.parametrize(
    ("hook", "num_batches", "num_epochs"), [("on_train_batch_end", 3, 0), ("on_epoch_end", 4, 1)], ids=str
)
def test_a_native_callback_that_stops_training_stops_it_early(regression, hook, num_batches, num_epochs):
    _, trainer = regression
    completed, outcomes = [], []

    class Stop(keras.callbacks.Callback):
        """Like EarlyStopping."""

    def stop(self, index, logs=None):
        if hook == "on_epoch_end" or index == 2:
            self.model.stop_training = True

    setattr(Stop, hook, stop)

    class Follow(Callback):
        def on_batch_training_completed(self, batch, logs):
            completed.append("batch")

        def on_epoch_completed(self, logs):
            completed.append("epoch")

        def on_training_ended(self, logs, **outcome):
            outcomes.append({name for name, value in outcome.items() if value})

    TrainingManager(trainer, make_batches(), num_epochs=3, callbacks=[Stop(), Follow()]).start_training()
    assert (completed.count("batch"), completed.count("epoch")) == (num_batches, num_epochs)
    assert outcomes == [{"stopped_early", "callback_calls_success"}]


def test_a_callback_sees_the_weights_that_the_batch_left(regression, train_by_hand):
    model, trainer = regression
    seen = []

    class Look(Callback):
        def on_batch_training_completed(self, batch, logs):
            seen.append((batch, *model.dense.get_weights(), np.array(model.dense.kernel)))

    by_hand = train_by_hand(*model.dense.get_weights(), LEARNING_RATE)
    TrainingManager(trainer, make_batches(), num_epochs=2, callbacks=[Look()]).start_training()
    assert len(seen) == 8
    for (x, y), kernel, bias, variable in seen:
        by_hand.step(np.asarray(x), np.asarray(y))
        np.testing.assert_allclose(kernel[:, 0], by_hand.kernel, **SINGLE)
        np.testing.assert_allclose(bias, [by_hand.bias], **SINGLE)
        np.testing.assert_array_equal(variable, kernel)


@pytest.mark.parametrize("how", ["set_weights", "assign"])
def test_weights_that_a_callback_assigns_are_trained_on_by_the_next_batch(regression, how, train_by_hand):
    model, trainer = regression
    batches, losses = make_batches((8, 8, 8)), []
    kernel, bias = np.linspace(-1, 1, 6).reshape(6, 1), np.array([0.5])

    class Assign(Callback):
        def on_batch_training_completed(self, batch, logs):
            losses.append(logs.at("training.batch.loss"))
            if len(losses) != 1:
                return
            if how == "assign":
                model.dense.kernel.assign(kernel)
                model.dense.bias.assign(bias)
            else:
                model.dense.set_weights([kernel, bias])

    metrics = TrainingMetricsLogger(metric_evaluator=MetricEvaluator(trainer=trainer))
    first = train_by_hand(*model.dense.get_weights(), LEARNING_RATE).loss(*batches[0])
    TrainingManager(trainer, batches, callbacks=[metrics, Assign()]).start_training()
    by_hand = train_by_hand(kernel, bias, LEARNING_RATE)
    expected = [first, by_hand.step(*batches[1]), by_hand.step(*batches[2])]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(model.dense.get_weights()[0][:, 0], by_hand.kernel, **SINGLE)


def test_a_learning_rate_that_a_callback_assigns_is_used_by_the_next_batch(regression, train_by_hand):
    model, trainer = regression
    rates, reported = [0.05, 0.0, 0.2, 0.01], []

    class Schedule(Callback):
        def on_batch_training_completed(self, batch, logs):
            reported.append(logs.at("training_params.batch.lr"))
            if len(reported) < len(rates):
                self.manager.trainer.optimizers["optimizer"].learning_rate = rates[len(reported)]

    by_hand, batches = train_by_hand(*model.dense.get_weights(), LEARNING_RATE), make_batches()
    TrainingManager(trainer, batches, callbacks=[Schedule()]).start_training()
    for rate, (x, y) in zip(rates, batches, strict=True):
        by_hand.learning_rate = rate
        by_hand.step(x, y)
    np.testing.assert_allclose(model.dense.get_weights()[0][:, 0], by_hand.kernel, **SINGLE)
    assert reported == [float(np.float32(rate)) for rate in rates]


def test_a_batch_that_cant_be_computed_leaves_the_weights_of_the_one_before(regression, train_by_hand):
    model, trainer = regression
    good, (x, y) = make_batches((8, 8))
    by_hand = train_by_hand(*model.dense.get_weights(), LEARNING_RATE)
    with pytest.raises(Exception, match=r"(?i)matmul|shape|dimension|incompatible"):
        TrainingManager(trainer, [good, (x[:, :4], y)]).start_training()
    by_hand.step(*good)
    np.testing.assert_allclose(model.dense.get_weights()[0][:, 0], by_hand.kernel, **SINGLE)
    TrainingManager(trainer, [(x, y)]).start_training()  # and training can go on
    by_hand.step(x, y)
    np.testing.assert_allclose(model.dense.get_weights()[0][:, 0], by_hand.kernel, **SINGLE)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
def test_a_step_that_fails_on_the_device_leaves_the_weights_readable(backend, eager_mode, train_by_hand):
    """On JAX only if the compiled step isn't given the old values to write over, as it is by default."""

    class Failing(Regression):
        def call(self, batch_data, evaluate_settings, inference_mode=None):
            x, y = batch_data
            return super().call((below(100.0, keras.ops.cast(x, "float32")), y), evaluate_settings, inference_mode)

    model = Failing()
    keeps_old_values = keras.config.backend() == "jax" and not eager_mode
    trainer = backend.mlp.trainers.DefaultTrainer(
        keras.optimizers.SGD(LEARNING_RATE),
        model.dense,
        eager_mode=eager_mode,
        compile_kwargs={"donate_argnums": ()} if keeps_old_values else None,
    )
    trainer.set_training_model(model)
    good, (x, y) = make_batches((8, 8))
    by_hand = train_by_hand(*model.dense.get_weights(), LEARNING_RATE)
    with pytest.raises(Exception, match="over the limit"):
        TrainingManager(trainer, [good, (x + 1000, y)]).start_training()
    by_hand.step(*good)
    np.testing.assert_allclose(model.dense.get_weights()[0][:, 0], by_hand.kernel, **SINGLE)


def below(limit, x):
    """The same x; an error while the step runs, where a number in it is over the limit."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        with tf.control_dependencies([tf.debugging.assert_less(x, limit, message="over the limit")]):
            return tf.identity(x)
    import jax

    def checked(x):
        if (x > limit).any():
            raise ArithmeticError("over the limit")
        return x

    return jax.pure_callback(checked, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_a_native_callback_hears_of_batches_by_whichever_of_keras_hooks_it_has(backend):
    heard = []

    class OlderNames(keras.callbacks.Callback):
        def on_batch_begin(self, batch, logs=None):
            heard.append(("begin", batch, logs))

        def on_batch_end(self, batch, logs=None):
            heard.append(("end", batch, set(logs)))

    by_function = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: heard.append(("function", batch, type(logs["loss"])))
    )
    trainer = backend.trainer()
    manager = TrainingManager(trainer, make_batches((4, 4)), callbacks=[OlderNames(), by_function])
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    assert heard == [
        heard_of
        for batch in range(2)
        for heard_of in [("begin", batch, {}), ("end", batch, {"loss"}), ("function", batch, float)]
    ]


def test_what_keras_works_with_is_at_hand(backend):
    trainer = backend.trainer()
    assert trainer.native is None
    training_model = backend.training_model()
    trainer.set_training_model(training_model)
    assert isinstance(trainer.native, keras.Model)
    assert trainer.native.training_model is training_model
    assert trainer.native.optimizer is backend.optimizer
