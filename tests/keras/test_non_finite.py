"""What a batch that isn't finite must not change on Keras: statistics and optimizers, compiled and eager."""

import keras
import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, make_batches

from mlpug.callbacks import Callback
from mlpug.errors import NonFiniteLoss
from mlpug.trainers import TrainingManager

WAYS = {
    "compiled": {},
    "compiled another way": None,  # without XLA on TensorFlow, without donated memory on JAX
    "eager": {"eager_mode": True},
}


@pytest.fixture(params=WAYS)
def way(request):
    """How the step runs, as arguments of DefaultTrainer."""
    other = {"tensorflow": {"jit_compile": False}, "jax": {"donate_argnums": ()}}[keras.backend.backend()]
    given = WAYS[request.param]
    return {"compile_kwargs": other} if given is None else given


class TrainModel(keras.Model):
    """BatchNorm's statistics and Dropout's seed change in the forward pass; `fail` is called after it."""

    def __init__(self, fail=lambda: None):
        super().__init__()
        keras.utils.set_random_seed(3)
        self.norm, self.dropout = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
        self.dense, self.fail = keras.layers.Dense(1), fail

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        predictions = keras.ops.squeeze(self.dense(self.dropout(self.norm(keras.ops.cast(x, "float32")))), axis=1)
        self.fail()
        return keras.ops.mean(keras.ops.square(predictions - keras.ops.cast(y, "float32")))


class Keep(Callback):
    """All variables after each batch: those of the random numbers apart."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.kept, self.seeds, self.did_update = [], [], []

    def on_batch_training_start(self, batch, logs):
        if not self.kept:
            self.keep()

    def on_batch_training_completed(self, batch, logs):
        self.keep()
        self.did_update.append(logs.at("training.batch.did_update_model"))

    def keep(self):
        self.kept.append(all_values(self.model, self.optimizer))
        self.seeds.append(np.array(self.model.dropout.seed_generator.state).tolist())


def all_values(model, optimizer):
    return [np.array(variable) for variable in (*model.weights, *optimizer.variables)]


def are_same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def start(backend, model, optimizer, batches, callbacks=(), **arguments):
    trainer = backend.mlp.trainers.DefaultTrainer(optimizer, model, **arguments)
    trainer.set_training_model(model)
    manager = TrainingManager(trainer, batches, callbacks=callbacks)
    manager.start_training()
    return manager


def test_a_skipped_batch_changes_nothing_but_the_random_numbers(backend, way):
    model, optimizer, batches = TrainModel(), keras.optimizers.Adam(0.01), make_batches((8, 8, 8))
    batches[1][0][3, 2] = np.nan
    keep = Keep(model, optimizer)
    start(backend, model, optimizer, batches, [keep], on_non_finite="skip", **way)

    before, first, second, third = keep.kept
    assert are_same(first, second)
    assert not any(are_same([a], [b]) for a, b in zip(first[:6], third[:6], strict=True))  # weights and statistics
    assert not are_same(before, first)
    assert keep.did_update == [True, False, True]
    assert int(optimizer.iterations) == 2
    assert len({tuple(seed) for seed in keep.seeds}) == 4


def test_raising_leaves_everything_as_it_was(backend, way):
    model, optimizer, batches = TrainModel(), keras.optimizers.SGD(0.01, momentum=0.9), make_batches((8, 8))
    batches[1][1][3] = np.inf
    keep = Keep(model, optimizer)
    with pytest.raises(NonFiniteLoss):
        start(backend, model, optimizer, batches, [keep], on_non_finite="raise", **way)
    assert are_same(all_values(model, optimizer), keep.kept[-1])
    assert keep.did_update == [True]


def test_a_look_changes_no_value(backend, way):
    batches, results = make_batches((8, 8, 8)), []
    for on_non_finite in ("ignore", "raise"):
        model, optimizer = TrainModel(), keras.optimizers.Adam(0.01)
        start(backend, model, optimizer, batches, on_non_finite=on_non_finite, **way)
        results.append(all_values(model, optimizer))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)  # compiled anew: sums may run in another order


def test_an_error_within_a_step_leaves_everything_as_it_was(backend):
    calls = []

    def fail():
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("after BatchNorm has seen the third batch")

    model, optimizer = TrainModel(fail), keras.optimizers.Adam(0.01)
    keep = Keep(model, optimizer)
    # It is called once more to build the layers.
    with pytest.raises(RuntimeError, match="has seen the third batch"):
        start(backend, model, optimizer, make_batches((8, 8, 8)), [keep], eager_mode=True)
    assert len(keep.did_update) == 1
    assert are_same(all_values(model, optimizer), keep.kept[-1])
    assert np.array(model.dropout.seed_generator.state).tolist() == keep.seeds[-1]


class Embedded(keras.Model):
    """Its gradients are slices on TensorFlow."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(10, 3)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        numbers, scale = batch_data
        # The root of 0 is finite, its gradient isn't.
        return keras.ops.sqrt(keras.ops.sum(scale * self.embedding(numbers) ** 2))


@pytest.mark.parametrize("is_bad", [False, True])
def test_the_gradients_of_embeddings_are_looked_at(backend, way, is_bad):
    model, optimizer = Embedded(), keras.optimizers.Adam(0.01)
    batch = (np.array([1, 1, 4]), np.float32(0.0 if is_bad else 1.0))
    model.embedding.build()
    before = np.array(model.embedding.embeddings)
    manager = start(backend, model, optimizer, [batch], on_non_finite="skip", **way)
    assert manager.logs.at("training_params.skipped_batches") == (1 if is_bad else None)
    assert np.array_equal(np.array(model.embedding.embeddings), before) == is_bad
    assert int(optimizer.iterations) == (0 if is_bad else 1)


def test_a_loss_scalers_own_overflow_is_its_own_business(backend, way):
    model = TrainModel()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**127)
    keep = Keep(model, optimizer)
    start(backend, model, optimizer, make_batches((8,)), [keep], on_non_finite="raise", **way)
    assert float(np.array(optimizer.dynamic_scale)) == 2.0**126
    assert int(optimizer.inner_optimizer.iterations) == 0


def test_with_a_loss_scaler_the_step_is_that_of_its_inner_optimizer(backend, way):
    results = []
    for wrap in (lambda inner: inner, lambda inner: keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)):
        model = TrainModel()
        start(backend, model, wrap(keras.optimizers.SGD(0.1)), make_batches((8, 8)), on_non_finite="skip", **way)
        results.append([np.array(weight) for weight in model.weights])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # scaling by 8 rounds nothing, compiling anew may
    assert results[0][0].shape == (NUM_FEATURES,)


def test_with_a_loss_scaler_the_loss_itself_is_looked_at(backend, way):
    model, batches = TrainModel(), make_batches((8,))
    batches[0][1][0] = np.nan
    with pytest.raises(NonFiniteLoss):
        start(
            backend,
            model,
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
            batches,
            on_non_finite="raise",
            **way,
        )
    assert all(np.isfinite(np.array(weight)).all() for weight in model.weights)
