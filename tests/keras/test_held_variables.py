"""What a run holds besides weights is kept wherever it stands: a resumed run equals one that never stopped."""

import functools
import types
import warnings

import keras
import numpy as np
import pytest
from compiled_models import PortedRun, arrays
from contract.keeper import Keeper

from mlpug import checkpoints
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

NUM_EPOCHS = 3


class Drawing:
    """Draws, counts and averages: of each kind of thing that has variables of its own."""

    def __init__(self):
        self.seeds, self.count, self.mean = keras.random.SeedGenerator(42), keras.Variable(0.0), keras.metrics.Mean()
        self.optimizer, self.trained = keras.optimizers.Adam(0.1), keras.Variable([1.0, 2.0])
        self.optimizer.build([self.trained])
        self.seen = []

    def __call__(self):
        drawn = keras.random.uniform((2,), seed=self.seeds)
        self.count.assign_add(1.0)
        self.mean.update_state(drawn)
        self.optimizer.apply([drawn], [self.trained])
        state = self.count, self.mean.result(), *self.trained.value, *drawn
        return [float(number) for number in map(keras.ops.convert_to_numpy, state)]


class InAttribute(keras.callbacks.Callback):
    def __init__(self, drawing):
        super().__init__()
        self.held, self.seen = self.hold(drawing), []

    def hold(self, drawing):
        return drawing

    def drawing(self):
        return self.held

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.drawing()())


class InDict(InAttribute):
    def hold(self, drawing):
        return {"a": 1, ("b", 2): [None, (drawing,)]}

    def drawing(self):
        return self.held["b", 2][1][0]


class InObject(InAttribute):
    def hold(self, drawing):
        return types.SimpleNamespace(inner=types.SimpleNamespace(drawing=drawing))

    def drawing(self):
        return self.held.inner.drawing


class InPartial(InAttribute):
    def hold(self, drawing):
        return functools.partial(call, drawing)

    def drawing(self):
        return self.held


class InBoundMethod(InPartial):
    def hold(self, drawing):
        return drawing.__call__


class InSet(InPartial):
    def hold(self, drawing):
        return {drawing}

    def drawing(self):
        (drawing,) = self.held
        return drawing


def call(drawing):
    return drawing()


class InClosure(keras.callbacks.LambdaCallback):
    def __init__(self, drawing):
        super().__init__(on_epoch_end=lambda epoch, logs: self.seen.append(drawing()))
        self.seen = []


def model():
    made = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def run_of(backend, natives, folder=None, make=model, num_epochs=NUM_EPOCHS):
    return PortedRun(backend.mlp, make, arrays, natives=natives, folder=folder, num_epochs=num_epochs, batch_size=6)


@pytest.mark.parametrize("place", [InAttribute, InDict, InObject, InPartial, InBoundMethod, InSet, InClosure])
def test_variables_of_a_callback_go_on(backend, tmp_path, place):
    whole = place(Drawing())
    keeper = run_of(backend, [whole], tmp_path).start().keeper
    assert len({tuple(drawn) for drawn in whole.seen}) == NUM_EPOCHS
    path = next(path for path, batches in keeper.saved if batches == 6)
    resumed = place(Drawing())
    run_of(backend, [resumed]).start(path)
    assert resumed.seen[-2:] == whole.seen[-2:]


class TrainModel(keras.Model):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean(keras.ops.square(self.net(batch_data[0])))


def test_variables_of_a_callback_go_on_where_a_training_model_is_trained(backend, tmp_path):
    def run(callbacks, resume_from=None):
        net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), net)
        manager = TrainingManager(trainer, [arrays(4)] * 4, num_epochs=NUM_EPOCHS, callbacks=callbacks)
        trainer.set_training_model(TrainModel(net))
        manager.start_training(resume_from=resume_from)

    whole, keeper, resumed = InDict(Drawing()), Keeper(tmp_path), InDict(Drawing())
    run([keeper, whole])
    run([resumed], next(path for path, batches in keeper.saved if batches == 6))
    assert resumed.seen[-2:] == whole.seen[-2:]


def test_the_model_of_a_callback_isnt_kept_twice(backend, tmp_path):
    class Holds(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            self.layer, self.models, self.optimizer = model.layers[0], [model], model.optimizer

    keeper = run_of(backend, [Holds()], tmp_path).start().keeper
    state = checkpoints.load(keeper.saved[2][0])
    assert state["keras"]["changes"]["Holds"]["variables"] == {}


def test_what_cant_be_told_apart_is_named_before_the_first_batch(backend):
    seen = []

    class Two(InPartial):
        def hold(self, drawing):
            return {drawing, Drawing()}

        def on_train_batch_end(self, batch, logs=None):
            seen.append(len(told))

        def on_epoch_end(self, epoch, logs=None):
            pass

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run_of(backend, [Two(Drawing())], num_epochs=1).start()
    (warning,) = [one for one in told if issubclass(one.category, MlpugWarning)]
    assert "the callback Two" in str(warning.message)
    assert "held" in str(warning.message)
    assert seen[0] >= 1


def test_variables_that_arent_there_yet_are_named(backend, tmp_path):
    class Late(InAttribute):
        def __init__(self):
            super().__init__(None)

        def on_epoch_end(self, epoch, logs=None):
            if self.held is None:
                self.held = Drawing()
            super().on_epoch_end(epoch, logs)

    keeper = run_of(backend, [Late()], tmp_path).start().keeper
    path = next(path for path, batches in keeper.saved if batches == 6)
    with pytest.warns(MlpugWarning, match=r"the callback Late.*held\.count"):
        run_of(backend, [Late()]).start(path)


class ScaledLoss(keras.losses.Loss):
    """Depends on how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        self.calls.assign_add(1.0)
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        return losses * keras.ops.cast(1 + 0.1 * self.calls, losses.dtype)


class Counts(keras.layers.Layer):
    """A TensorFlow variable in a list, an object's Keras variable, and a layer that keeps its state."""

    def __init__(self):
        super().__init__()
        import tensorflow as tf

        self.tf_variables = [tf.Variable(0.0, trainable=False)]
        self.helper = types.SimpleNamespace(calls=keras.Variable(0.0, trainable=False))

    def call(self, x, training=False):
        if training:
            self.tf_variables[0].assign_add(1.0)
            self.helper.calls.assign_add(2.0)
        return x * (1 + 0.05 * self.tf_variables[0] + 0.01 * self.helper.calls)


class Stateful(keras.Model):
    def __init__(self):
        super().__init__()
        self.steps = keras.layers.Reshape((5, 1))
        self.rnn = keras.layers.SimpleRNN(4, stateful=True)
        self.out = keras.layers.Dense(3)

    def call(self, x):
        return self.out(self.rnn(self.steps(x)))


def of_loss():
    made = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    made.compile("sgd", ScaledLoss())
    return made


def of_layer():
    made = keras.Sequential([keras.Input((5,)), Counts(), keras.layers.Dense(3)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def stateful():
    made = Stateful()
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


class TwoOptimizers(keras.Model):
    """Each of its layers has an optimizer of its own, which stand in a list, or where `place` puts them."""

    def __init__(self, place):
        super().__init__()
        self.one, self.other = keras.layers.Dense(3), keras.layers.Dense(3)
        self.own = place([keras.optimizers.Adam(0.05), keras.optimizers.Adam(0.03)])

    def build(self, shape):
        self.one.build(shape)
        self.other.build(shape)
        self.built = True

    def both(self):
        own = self.own.pair if isinstance(self.own, types.SimpleNamespace) else self.own
        return list(own.values()) if isinstance(own, dict) else own

    def train_step(self, data):
        import tensorflow as tf

        for part, optimizer in zip((self.one, self.other), self.both(), strict=True):
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(data[1], part(data[0]), from_logits=True)
                loss = keras.ops.mean(losses)
            optimizer.apply(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
        return {"loss": loss}


def two_optimizers(place):
    def make():
        made = TwoOptimizers(place)
        made.compile()
        made.build((None, 5))
        return made

    return make


ON_TENSORFLOW = {
    "a variable of a loss": of_loss,
    "variables of a layer that Keras doesn't track": of_layer,
    "the states of a recurrent layer": stateful,
    "optimizers in a list": two_optimizers(list),
    "optimizers in a dict": two_optimizers(lambda pair: dict(zip("ab", pair, strict=True))),
    "optimizers in an object": two_optimizers(lambda pair: types.SimpleNamespace(pair=tuple(pair))),
}


if keras.config.backend() == "tensorflow":  # a step on JAX is a function of what Keras tracks: it changes nothing else

    @pytest.mark.parametrize("name", ON_TENSORFLOW)
    def test_what_a_compiled_model_holds_goes_on(backend, tmp_path, name):
        def run(folder=None):
            whole_batches = lambda: arrays(24)  # noqa: E731 - a stateful layer takes no smaller batch
            return PortedRun(
                backend.mlp, ON_TENSORFLOW[name], whole_batches, folder=folder, num_epochs=NUM_EPOCHS, batch_size=6
            )

        whole = run(tmp_path).start()
        for batches in (2, 6, 9):
            resumed = run().start(next(path for path, done in whole.keeper.saved if done == batches))
            for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
