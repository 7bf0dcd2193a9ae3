"""On a CUDA GPU: what Keras trains on JAX is what it trains without mlpug, and goes on bit by bit."""

from contextlib import nullcontext

import jax
import keras
import numpy as np
import pytest
from compiled_models import NativeRun, PortedRun, arrays, assert_same_weights, layers
from gpu.accelerator import ACCELERATOR, check_accelerator, of_a_gpu
from gpu.ends import EndsAt, fail

import mlpug.jax as mlp

check_accelerator("JAX", jax.default_backend() == "gpu")
# float32 matrices are multiplied in TF32 by default on a GPU, in which what differs by a rounding ends 1e-3 apart.
jax.config.update("jax_default_matmul_precision", "highest")

NUM_EPOCHS, NUM_BATCHES, BATCH_SIZE = 3, 4, 16
DATA = {"batch_size": BATCH_SIZE, "validation_data": arrays(24, seed=1)}


def samples():
    return arrays(60)  # the last batch of an epoch is short


def classifier():
    """BatchNorm and dropout; momentum, as Adam would make much of roundings where a gradient is almost zero."""
    model = keras.Sequential([keras.Input((5,)), *layers()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model


def without_noise():
    """The gradient of a batch is the mean of its samples': no BatchNorm, and nothing random."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(64, activation="tanh"), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def native(make=classifier, **options):
    return NativeRun(make, samples, num_epochs=NUM_EPOCHS, **{**DATA, **options})


def ported(make=classifier, resume_from=None, **options):
    return PortedRun(mlp, make, samples, num_epochs=NUM_EPOCHS, **{**DATA, **options}).start(resume_from)


def assert_close(run, expected, tolerance=1e-6):
    """Weights, and what callbacks of Keras's own see at each batch and epoch.

    What XLA compiles with another output besides may be fused, and so be rounded, in another way.
    """
    for one, other in zip(run.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    assert len(run.logs.seen) == len(expected.logs.seen) == NUM_EPOCHS * (NUM_BATCHES + 2)
    for (kind, place, logs), (expected_kind, expected_place, expected_logs) in zip(
        run.logs.seen, expected.logs.seen, strict=True
    ):
        assert (kind, place) == (expected_kind, expected_place)
        assert logs == pytest.approx(expected_logs, abs=tolerance)


@pytest.fixture(scope="module")
def alone():
    """By fit."""
    return native()


@pytest.fixture(scope="module")
def whole():
    """By mlpug, without a stop."""
    return ported()


def test_it_trains_as_fit_does(alone, whole):
    assert_close(whole, alone)
    losses = [event[2]["loss"] for event in whole.ours.seen if event[0] == "epoch_end"]
    assert losses[-1] < losses[0]


def test_all_that_is_trained_is_on_the_device(whole):
    [device] = jax.devices()
    assert device.platform == ACCELERATOR
    for variable in (*whole.model.variables, *whole.model.optimizer.variables):
        assert variable.value.devices() == {device}, variable.path


def test_chunks_make_the_same_update_as_the_whole_batch():
    class CountUpdates(mlp.callbacks.Callback):
        def __init__(self):
            self.events = []

        def on_batch_training_completed(self, batch, logs):
            self.events.append(logs.at("training.batch.did_update_model"))

    count = CountUpdates()
    run = ported(without_noise, batch_chunk_size=6, callbacks=[count])
    assert_close(run, native(without_noise), tolerance=1e-5)
    assert count.events == [True] * NUM_EPOCHS * NUM_BATCHES
    assert int(run.model.optimizer.iterations.value) == NUM_EPOCHS * NUM_BATCHES


def test_callbacks_in_a_native_run_change_nothing_and_leave_checkpoints(alone, tmp_path):
    saves = mlp.callbacks.CheckpointManager(
        tmp_path, "run", batch_level=False, metric_to_monitor="validation.dataset.loss"
    )
    window = mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator())
    run = native(callbacks=[mlp.callbacks.as_native(window, saves)])
    assert_close(run, alone)
    kinds = ("best-model-checkpoint", "latest-model-checkpoint", "training-checkpoint")
    assert {path.name for path in tmp_path.iterdir()} == {f"run-{kind}.safetensors" for kind in kinds}
    latest = classifier()
    mlp.load_model_checkpoint(tmp_path / "run-latest-model-checkpoint.safetensors").restore(model=latest)
    assert_same_weights(latest, run.model)


@pytest.mark.parametrize(
    ("global_iter", "end"),
    [(NUM_BATCHES + 1, mlp.trainers.TrainingManager.stop_training), (2 * NUM_BATCHES - 1, fail)],
    ids=["stopped within an epoch", "failed at the end of one"],
)
def test_a_run_that_goes_on_equals_the_one_that_never_stopped(whole, global_iter, end, tmp_path):
    """To the last bit: the same program runs, and none of these layers adds up in an order that isn't fixed."""
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None)
    with pytest.raises(ZeroDivisionError, match="on purpose") if end is fail else nullcontext():
        ported(callbacks=[EndsAt(global_iter, end), saves])
    resumed = ported(resume_from=tmp_path / "run-training-checkpoint.safetensors", seed=1000)
    assert_same_weights(resumed.model, whole.model)
    for one, other in zip(resumed.model.optimizer.variables, whole.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert resumed.ours.seen == whole.ours.seen[len(whole.ours.seen) - len(resumed.ours.seen) :]
    num_batches = sum(kind == "batch_end" for kind, *_ in resumed.ours.seen)
    assert num_batches == NUM_EPOCHS * NUM_BATCHES - (global_iter + 1)


class Look(mlp.callbacks.Callback):
    """The same as LogCudaMemory before it, by JAX itself."""

    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        stats = jax.devices()[0].memory_stats()
        self.seen.append((logs.at("training_params.memory.cuda:0").snapshot(), stats))


@of_a_gpu
def test_the_memory_that_is_logged_is_that_of_the_gpu():
    held = jax.numpy.ones((64, 2**20), "float32").block_until_ready()  # 256 MiB
    look = Look()
    ported(callbacks=[mlp.callbacks.LogCudaMemory(log_period=1), look])
    assert len(look.seen) == NUM_EPOCHS * NUM_BATCHES
    for shown, stats in look.seen:
        assert shown["total"] == stats["bytes_limit"] == shown["free"] + shown["used"]
        assert held.nbytes < shown["used"] <= shown["largest_used"] <= shown["total"]
        assert abs(shown["used"] - stats["bytes_in_use"]) < 2**24
