"""as_native is a guest in ``model.fit``: what ``fit`` lets pass, and goes on from, isn't ended by it."""

import importlib
import warnings

import keras
import numpy as np
import pytest
from compiled_models import arrays, assert_same_weights, compiled, layers, sequential, unbuilt

from mlpug.callbacks import Callback
from mlpug.checkpoints.locks import RunLock
from mlpug.errors import CheckpointInUseError, ConfigurationError, MlpugWarning

mlp = importlib.import_module(f"mlpug.{keras.config.backend()}")
NUM_EPOCHS = 3
ON_TENSORFLOW = keras.config.backend() == "tensorflow"
if ON_TENSORFLOW:
    import tensorflow as tf

X, Y = arrays()


class Heard(Callback):
    """How many batches it hears of in each epoch, and their losses; what comes last."""

    def __init__(self):
        self.counts, self.losses, self.hooks = [], [], []

    def on_epoch_start(self, logs):
        self.counts.append(0)

    def on_batch_training_completed(self, batch, logs):
        self.counts[-1] += 1
        self.losses.append(logs.at("training.batch.loss"))
        self.hooks.append("batch")

    def on_epoch_completed(self, logs):
        self.hooks.append("epoch")

    def on_training_ended(self, logs, **outcome):
        self.hooks.append("ended")
        self.outcome = outcome


class Counts(keras.callbacks.Callback):
    """How many batches ``fit`` tells of in each epoch."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def on_epoch_begin(self, epoch, logs=None):
        self.counts.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.counts[-1] += 1


def fit(make, data, *callbacks, num_epochs=NUM_EPOCHS, **options):
    keras.utils.set_random_seed(5)
    model = make()
    counts = Counts()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")  # which is how Keras learns that it ends
        given = data()
        x, y = given if isinstance(given, tuple) else (given, None)
        options = options if y is not None else {"shuffle": False, **options}
        history = model.fit(x, y, epochs=num_epochs, verbose=0, callbacks=[*callbacks, counts], **options).history
    return model, history, counts.counts


def checkpoints_in(folder, metric_to_monitor="training.batch.loss"):
    return mlp.callbacks.CheckpointManager(folder, "run", batch_level=False, metric_to_monitor=metric_to_monitor)


def assert_equal_to_alone(folder, make, data, monitored="training.batch.loss", **options):
    """Trains without and with as_native, which saves a checkpoint after each epoch."""
    alone, expected, counts = fit(make, data, **options)
    heard = Heard()
    model, history, beside = fit(
        make, data, mlp.callbacks.as_native(heard, checkpoints_in(folder, monitored)), **options
    )
    assert history == expected
    assert beside == counts
    assert_same_weights(model, alone)
    assert heard.counts == counts
    assert heard.hooks[-1] == "ended"
    assert heard.hooks.count("epoch") == len(heard.counts)
    assert not any(heard.outcome[name] for name in ("stopped_early", "stopped_on_error", "interrupted"))
    return heard


def generator(num_batches):
    def batches():
        for place in range(num_batches):
            yield X[place : place + 4], Y[place : place + 4]

    return batches


if ON_TENSORFLOW:  # which alone has no other way to know

    def filtered():
        return tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(6)

    def text_lines():
        """As from a file: nobody knows how many there are."""
        lines = tf.data.Dataset.from_generator(lambda: iter(range(7)), output_signature=tf.TensorSpec((), tf.int64))
        return lines.map(lambda place: (tf.gather(X, place), tf.gather(Y, place))).batch(2)

    @pytest.mark.parametrize(
        ("data", "options"),
        [
            (filtered, {}),
            (filtered, {"validation_data": (X[:9], Y[:9])}),
            (lambda: filtered().shuffle(4, seed=1), {"validation_data": filtered().take(2)}),
            (text_lines, {}),
            (filtered, {"steps_per_epoch": 3}),
        ],
        ids=["filtered", "validated", "shuffled", "lines", "steps"],
    )
    def test_data_of_unknown_length_trains_to_its_end_in_every_epoch(tmp_path, data, options):
        assert_equal_to_alone(tmp_path, sequential, data, **options)


@pytest.mark.parametrize(
    ("num_batches", "options"), [(5, {}), (5, {"steps_per_epoch": 2}), (4, {"steps_per_epoch": 2})], ids=str
)
def test_a_generator_that_is_used_up_leaves_epochs_without_batches(tmp_path, num_batches, options):
    heard = assert_equal_to_alone(tmp_path, sequential, generator(num_batches), **options)
    assert heard.counts[-1] < heard.counts[0]


class Fails(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise ValueError("mine")


def test_the_files_are_its_own_while_it_trains_and_no_longer(tmp_path):
    lock = RunLock(tmp_path / ".run.mlpug-lock")
    lock.acquire()
    heard = Heard()
    with pytest.raises(CheckpointInUseError, match="has locked"):
        fit(sequential, lambda: (X, Y), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path)))
    lock.release()
    assert heard.hooks == []

    with pytest.raises(ValueError, match="mine") as raised:  # of which Keras tells nobody
        fit(sequential, lambda: (X, Y), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path)), Fails())
    fit(sequential, lambda: (X, Y), mlp.callbacks.as_native(checkpoints_in(tmp_path)))
    assert raised.value.args == ("mine",)
    lock.acquire()


def test_no_epochs_at_all(tmp_path):
    heard = Heard()
    _, history, _ = fit(
        sequential, lambda: (X, Y), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path)), num_epochs=0
    )
    assert history == {}
    assert heard.hooks == ["ended"]


class TrainsOnTheSide(keras.callbacks.Callback):
    """On a batch of its own, as a callback may."""

    def __init__(self, when):
        super().__init__()
        setattr(self, when, self._train)
        self.told = []

    def _train(self, *_, **__):
        self.told.append(self.model.train_on_batch(X[:3], Y[:3], return_dict=True))


@pytest.mark.parametrize("when", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_batch_that_a_callback_trains_on_is_none_of_the_run(when, is_first):
    native, beside, heard = TrainsOnTheSide(when), TrainsOnTheSide(when), Heard()
    alone, expected, counts = fit(sequential, lambda: (X, Y), native, batch_size=6)
    ours = mlp.callbacks.as_native(heard)
    callbacks = [beside, ours] if is_first else [ours, beside]
    model, history, _ = fit(sequential, lambda: (X, Y), *callbacks, batch_size=6)
    assert history == expected
    assert beside.told == native.told != []
    assert_same_weights(model, alone)
    assert heard.counts == counts


class MakesItAnew(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.make_train_function(force=True)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_train_function_that_a_callback_has_made_anew_is_heard_too(is_first):
    alone, expected, counts = fit(sequential, lambda: (X, Y), MakesItAnew(), batch_size=6)
    heard = Heard()
    ours = mlp.callbacks.as_native(heard)
    callbacks = [MakesItAnew(), ours] if is_first else [ours, MakesItAnew()]
    model, history, _ = fit(sequential, lambda: (X, Y), *callbacks, batch_size=6)
    assert history == expected
    assert_same_weights(model, alone)
    assert heard.counts == counts


class Wraps(keras.callbacks.Callback):
    """Counts the steps, as who measures them does."""

    num_steps = 0

    def on_train_begin(self, logs=None):
        function = self.model.train_function

        def counting(*arguments):
            self.num_steps += 1
            return function(*arguments)

        self.model.train_function = counting


def test_a_train_function_that_a_callback_has_wrapped_stays_wrapped():
    wraps, heard = Wraps(), Heard()
    alone, expected, counts = fit(sequential, lambda: (X, Y), Wraps(), batch_size=6)
    model, history, _ = fit(sequential, lambda: (X, Y), mlp.callbacks.as_native(heard), wraps, batch_size=6)
    assert history == expected
    assert_same_weights(model, alone)
    assert heard.counts == counts
    assert wraps.num_steps == sum(counts)


def test_a_train_function_that_was_wrapped_before_is_called_and_its_mean_losses_are_told():
    alone, expected, counts = fit(sequential, lambda: (X, Y), Wraps(), batch_size=6)
    wraps, heard = Wraps(), Heard()
    with pytest.warns(MlpugWarning, match="isn't made by the model.* only the mean over the epoch so far"):
        model, history, _ = fit(sequential, lambda: (X, Y), wraps, mlp.callbacks.as_native(heard), batch_size=6)
    assert history == expected
    assert_same_weights(model, alone)
    assert heard.counts == counts
    assert wraps.num_steps == sum(counts)
    last_of_epochs = np.cumsum(counts) - 1
    np.testing.assert_array_equal(np.array(heard.losses)[last_of_epochs], history["loss"])
    assert "counting" in model.train_function.__name__


def test_from_keras_refuses_a_train_function_that_the_model_has_not_made():
    model = sequential()
    model.train_function = lambda iterator: {"loss": 0.0}
    with pytest.raises(ConfigurationError, match=r"train_function is <function.*change train_step"):
        mlp.trainers.DefaultTrainer.from_keras(model)


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": False}], ids=str)
def test_the_function_that_fit_has_made_is_the_models(options):
    model = sequential(**options)
    model.fit(X, Y, verbose=0)
    assert model.train_function is not None
    mlp.trainers.DefaultTrainer.from_keras(model)


def test_two_of_them_hear_the_same_and_leave_nothing_behind():
    alone, expected, counts = fit(sequential, lambda: (X, Y), batch_size=6)
    first, second = Heard(), Heard()
    ours = [mlp.callbacks.as_native(first), mlp.callbacks.as_native(second)]
    model, history, _ = fit(sequential, lambda: (X, Y), *ours, batch_size=6)
    assert history == expected
    assert_same_weights(model, alone)
    assert first.counts == second.counts == counts
    assert first.losses == second.losses
    function = model.train_function
    model.fit(X, Y, batch_size=6, verbose=0)
    assert "mlpug" not in type(function).__module__
    assert first.counts == counts


class OwnFunction(keras.Sequential):
    """Makes its train function in its own way, which takes no `force` and returns no logs."""

    def make_train_function(self):
        if self.train_function is None:
            super().make_train_function()
            native = self.train_function

            def train_function(*arguments):
                result = native(*arguments)
                return {} if ON_TENSORFLOW else ({}, result[1])

            self.train_function = train_function


def test_a_train_function_of_the_models_own_is_left_as_it_is(tmp_path):
    def make():
        return compiled(OwnFunction([keras.Input((5,)), *layers()]))

    heard = assert_equal_to_alone(tmp_path, make, lambda: (X, Y), monitored=None, batch_size=6)
    assert np.isnan(heard.losses).all()


class CountsOnly(keras.Model):
    """Trains nothing, and has no optimizer."""

    def __init__(self):
        super().__init__()
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, x):
        return x

    def train_step(self, data):
        self.seen.assign_add(1.0)
        return {"loss": self.seen * 2.0}


if ON_TENSORFLOW:  # on JAX ``fit`` itself can't do without an optimizer

    def test_a_model_without_an_optimizer_has_no_learning_rate_and_its_checkpoints(tmp_path):
        def make():
            model = CountsOnly()
            model.compile(optimizer=None)
            return model

        heard = assert_equal_to_alone(tmp_path, make, lambda: (X, Y), batch_size=6)
        assert heard.losses == [2.0 * (place + 1) for place in range(4 * NUM_EPOCHS)]
        loaded = make()
        loaded.build((None, 5))
        mlp.load_model_checkpoint(tmp_path / "run-latest-model-checkpoint.safetensors").restore(model=loaded)
        assert float(loaded.seen) == 4 * NUM_EPOCHS


def test_a_list_of_callbacks_that_the_script_has_made_itself():
    model, heard = sequential(), Heard()
    given = keras.callbacks.CallbackList([mlp.callbacks.as_native(heard)], add_history=True, model=model)
    model.fit(X, Y, batch_size=6, epochs=2, verbose=0, callbacks=given)
    assert heard.counts == [4, 4]


def scaled():
    model = sequential()
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


class TwoParts(keras.Model):
    """Each part has an optimizer of its own, in an attribute."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]) for _ in range(2))

    def compile(self, first, second):
        super().compile()
        self.first, self.second = first, second

    def train_step(self, data):
        losses = {}
        for name, part, optimizer in (("a", self.a, self.first), ("b", self.b, self.second)):
            with tf.GradientTape() as tape:
                losses[name] = tf.reduce_mean((part(data[0]) - 1.0) ** 2)
            optimizer.apply(tape.gradient(losses[name], part.trainable_weights), part.trainable_weights)
        return losses


def two_optimizers():
    model = TwoParts()
    model.compile(keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.01))
    return model


class HeadOnly(keras.Sequential):
    """Its optimizer trains the last layer alone."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.layers[-1].trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def head_only():
    return compiled(HeadOnly([keras.Input((5,)), *layers()]), metrics=None)


def head_only_eager():
    return compiled(HeadOnly([keras.Input((5,)), *layers()]), run_eagerly=True, metrics=None)


def head_only_unbuilt():
    return compiled(HeadOnly(layers()), metrics=None)


@pytest.mark.parametrize(
    "make",
    [
        unbuilt,
        scaled,
        # On JAX an optimizer is built on all weights before a step, and those in attributes have no place in its state.
        *([two_optimizers, head_only, head_only_eager, head_only_unbuilt] if ON_TENSORFLOW else []),
    ],
)
def test_a_checkpoint_of_an_epochs_end_is_resumed_by_from_keras(tmp_path, make):
    data = {"batch_size": 6, "shuffle": False}
    alone, _, _ = fit(make, lambda: (X, Y), num_epochs=4, **data)
    manager = checkpoints_in(tmp_path, None)
    fit(make, lambda: (X, Y), mlp.callbacks.as_native(manager), num_epochs=2, **data)
    resumed = make()
    trainer = mlp.trainers.DefaultTrainer.from_keras(resumed, **data)
    going_on = mlp.trainers.TrainingManager(trainer, (X, Y), num_epochs=4)
    going_on.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")
    assert_same_weights(resumed, alone)
