"""mlpug's callbacks in a run of ``model.fit`` of a script's own: it isn't changed, and they see what it knows."""

import importlib
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from compiled_models import Sequence, arrays, batches, compiled, layers
from keras.src.callbacks import callback_list
from keras.src.utils import python_utils

from mlpug.callbacks import Callback
from mlpug.errors import CheckpointMismatchError, ConfigurationError

mlp = importlib.import_module(f"mlpug.{keras.config.backend()}")
NUM_EPOCHS = 3
X, Y = arrays()


class OwnStep(keras.Sequential):
    """A loss tracker of its own, as Keras's guides write it."""

    def __init__(self, parts):
        super().__init__(parts)
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.tracker]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        self.tracker.update_state(loss)
        return loss


def model(kind=keras.Sequential):
    keras.utils.set_random_seed(3)
    return compiled(kind([keras.Input((5,)), *layers()]))


def fit(trained, *callbacks, num_epochs=NUM_EPOCHS, **options):
    keras.utils.set_random_seed(7)
    data = {"x": X, "y": Y, "batch_size": 6, "validation_data": (X[:9], Y[:9]), **options}
    return trained.fit(**data, epochs=num_epochs, verbose=0, callbacks=list(callbacks)).history


class Keep(Callback):
    def __init__(self):
        self.losses, self.epochs, self.outcome, self.batches = [], [], None, set()

    def on_batch_training_start(self, batch, logs):
        self.batches.add(batch)

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        self.losses.append((logs.at("training.batch.loss"), current["training"]["epoch"]["loss"]))

    def on_epoch_completed(self, logs):
        current = logs["current"]
        validation = current["validation"]["dataset"].snapshot() if "validation" in current else {}
        self.epochs.append(
            {**current["training"]["epoch"].snapshot(), **{f"val_{k}": v for k, v in validation.items()}}
        )

    def on_training_ended(self, logs, **outcome):
        self.outcome = outcome


class LossOfEach(keras.callbacks.Callback):
    """What Keras shows: the mean over the epoch so far."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(logs["loss"])


def assert_same_weights(trained, other):
    for weight, expected in zip(trained.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_run_is_the_same_and_the_logs_have_what_it_knows():
    alone, native = model(), LossOfEach()
    expected = fit(alone, native)
    keep, trained, beside = Keep(), model(), LossOfEach()
    history = fit(trained, mlp.callbacks.as_native(keep), beside)
    assert history == expected
    assert beside.means == native.means
    assert_same_weights(trained, alone)
    assert keep.epochs == [{name: values[epoch] for name, values in expected.items()} for epoch in range(NUM_EPOCHS)]
    assert [mean for _, mean in keep.losses] == pytest.approx(native.means, rel=1e-6)
    # The mean over an epoch's batches, weighed by their sizes, of the losses of batches alone.
    sizes = [6, 6, 6, 4]
    losses = np.array([loss for loss, _ in keep.losses]).reshape(NUM_EPOCHS, len(sizes))
    np.testing.assert_allclose(losses @ sizes / sum(sizes), expected["loss"], rtol=1e-6)
    assert keep.batches == {None}
    assert keep.outcome == {
        "stopped_early": False,
        "stopped_on_error": False,
        "interrupted": False,
        "callback_calls_success": True,
    }


def test_without_it_afterwards_the_model_trains_as_before():
    alone, trained = model(), model()
    fit(alone)
    fit(trained, mlp.callbacks.as_native(Keep()))
    assert fit(trained) == fit(alone)
    assert_same_weights(trained, alone)


class WeightsOfEach(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_weights())


class WeightsInHooks(Callback):
    """What a checkpoint of each batch would hold; afterwards the learning rate is another one."""

    def __init__(self, rates=()):
        self.seen, self.rates = [], list(rates)

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(self.manager.trainer.adapter.native.get_weights())
        if self.rates:
            self.manager.trainer.adapter.native.optimizer.learning_rate = self.rates.pop(0)


class RateOfEach(keras.callbacks.Callback):
    def __init__(self, rates):
        super().__init__()
        self.rates = list(rates)

    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rates.pop(0)


@pytest.mark.parametrize("rates", [[], [0.1 / place for place in range(1, 4 * NUM_EPOCHS + 1)]], ids=["", "rates"])
def test_a_hook_finds_the_weights_after_its_batch_and_may_change_what_the_next_one_uses(rates):
    native, ours = WeightsOfEach(), WeightsInHooks(rates)
    alone, trained = model(), model()
    fit(alone, native, *([RateOfEach(rates)] if rates else []))
    fit(trained, mlp.callbacks.as_native(ours))
    assert len(native.seen) == len(ours.seen) == 4 * NUM_EPOCHS
    for weights, expected in zip(ours.seen, native.seen, strict=True):
        for weight, of_native in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(weight, of_native)
    assert_same_weights(trained, alone)


class KeepPlaces(Callback):
    def __init__(self):
        self.starts, self.durations, self.at_ends = [], [], []

    def on_batch_training_start(self, batch, logs):
        self.starts.append(logs["current"]["batch_step"])

    def on_batch_training_completed(self, batch, logs):
        self.durations.append(logs.at("training_params.batch.duration"))

    def on_epoch_completed(self, logs):
        current = logs["current"]
        self.at_ends.append((current["batch_step"], current["training"]["batch"]["loss"]))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # which is how Keras learns that it ends
def test_batches_of_an_unknown_number_are_heard_of_once_each():
    places, keep = KeepPlaces(), Keep()
    once_an_epoch = mlp.callbacks.TrainingMetricsLogger(
        metric_evaluator=mlp.evaluation.MetricEvaluator(), batch_level=False, logging_mode="batch"
    )
    given = ((X[:4], Y[:4]) for _ in range(3))
    native = mlp.callbacks.as_native(keep, once_an_epoch, places)
    fit(model(), native, x=given, y=None, batch_size=None, shuffle=False, num_epochs=1)
    assert places.starts == [0, 1, 2]
    assert places.at_ends == [(2, keep.losses[-1][0])]
    assert len(places.durations) == 3
    assert places.durations[0] > 0.05  # the first step is compiled


def test_fit_waits_for_no_number_that_it_would_not_wait_for_without_it(monkeypatch):
    read_here = []

    def pythonify_logs(logs):
        if logs and threading.current_thread() is threading.main_thread():
            read_here.append(sorted(logs))
        return python_utils.pythonify_logs(logs)

    monkeypatch.setattr(callback_list, "python_utils", SimpleNamespace(pythonify_logs=pythonify_logs))
    fit(model())
    alone = list(read_here)
    assert alone
    read_here.clear()
    fit(model(), mlp.callbacks.as_native(Keep()))
    assert read_here == alone
    read_here.clear()
    fit(model(), LossOfEach())
    reads_elsewhere = keras.config.backend() == "jax"  # else Keras always reads each batch's numbers here
    assert len(read_here) - len(alone) == (4 * NUM_EPOCHS if reads_elsewhere else 0)


@pytest.mark.parametrize("data", ["arrays", "batches"])
def test_a_script_gets_checkpoints_by_one_line_and_goes_on_as_if_it_had_never_stopped(tmp_path, capsys, data):
    options = (
        {}
        if data == "arrays"
        else {"x": Sequence(batches()), "y": None, "batch_size": None, "validation_batch_size": 6}
    )
    alone = model()
    expected = fit(alone, **options)
    trained = model()
    manager = mlp.callbacks.CheckpointManager(
        tmp_path, "run", batch_level=False, metric_to_monitor="validation.dataset.loss"
    )
    shown = [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator()),
        mlp.callbacks.LogProgress(log_period=2, set_names=["training", "validation"]),
        mlp.callbacks.Tensorboard("curves", ["training.batch.loss", "validation.dataset.loss"], directory=tmp_path),
    ]
    history = fit(trained, mlp.callbacks.as_native(*shown, manager), num_epochs=2, **options)
    assert history == {name: values[:2] for name, values in expected.items()}
    assert "validation     : accuracy" in capsys.readouterr().out
    assert {path.parent.name for path in tmp_path.rglob("events.*")} == {"training", "validation"}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        f"run-{kind}.safetensors"
        for kind in ("best-model-checkpoint", "latest-model-checkpoint", "training-checkpoint")
    }
    latest = model()
    mlp.load_model_checkpoint(tmp_path / "run-latest-model-checkpoint.safetensors").restore(model=latest)
    assert_same_weights(latest, trained)

    resumed = model()
    keras.utils.set_random_seed(7)
    dataset, size = ((X, Y), 6) if data == "arrays" else (Sequence(batches()), None)
    trainer = mlp.trainers.DefaultTrainer.from_keras(
        resumed, batch_size=size, validation_data=(X[:9], Y[:9]), validation_batch_size=6
    )
    going_on = mlp.trainers.TrainingManager(trainer, dataset, num_epochs=NUM_EPOCHS)
    going_on.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")
    logs = going_on.logs
    assert logs.at("training.epoch.loss") == pytest.approx(expected["loss"][-1], rel=1e-6)
    assert logs.at("validation.dataset.loss") == pytest.approx(expected["val_loss"][-1], rel=1e-6)
    assert_same_weights(resumed, alone)


def test_a_loss_tracker_of_ones_own_tells_the_loss_of_the_batch():
    keep, native = Keep(), LossOfEach()
    fit(model(OwnStep), mlp.callbacks.as_native(keep), native)
    first, second = (loss for loss, _ in keep.losses[:2])
    assert first == pytest.approx(native.means[0], rel=1e-6)
    assert (first + second) / 2 == pytest.approx(native.means[1], rel=1e-6)


class FailsAt(Callback):
    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] == 5:
            raise ValueError("of mine")


class StopsAt(Callback):
    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] == 5:
            self.manager.stop_training()


def test_an_error_in_a_callback_reaches_the_caller_and_is_told_and_saved(tmp_path):
    keep = Keep()
    manager = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None)
    with pytest.raises(ValueError, match="of mine"):
        fit(model(), mlp.callbacks.as_native(keep, FailsAt(), manager))
    assert keep.outcome["stopped_on_error"] is True
    trainer = mlp.trainers.DefaultTrainer.from_keras(model(), batch_size=6)
    going_on = mlp.trainers.TrainingManager(trainer, (X, Y), num_epochs=NUM_EPOCHS)
    with pytest.raises(CheckpointMismatchError, match="within an epoch of a native run, after 2 batches of it"):
        going_on.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")


class NativeFailsAt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise ValueError("of Keras's own")


def fails_in_a_step():
    yield X[:4], Y[:4]
    raise ValueError("of the data")


@pytest.mark.parametrize(
    ("others", "data", "message"),
    [
        ([NativeFailsAt()], dict, "of Keras's own"),
        ([], lambda: {"x": fails_in_a_step(), "y": None, "batch_size": None, "shuffle": False}, "of the data"),
    ],
    ids=["callback", "step"],
)
def test_after_an_error_its_callbacks_hear_of_no_other_run(others, data, message):
    keep, trained = Keep(), model()
    with pytest.raises(Exception, match=message):
        fit(trained, mlp.callbacks.as_native(keep), *others, **data())
    heard = len(keep.losses)
    fit(trained)
    assert len(keep.losses) == heard


def test_a_callback_stops_the_run():
    keep = Keep()
    history = fit(model(), mlp.callbacks.as_native(keep, StopsAt()))
    assert len(keep.losses) == 6
    assert len(history["loss"]) == 2
    assert len(keep.epochs) == 1
    assert keep.outcome["stopped_early"] is True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, "needs callbacks"),
        (
            lambda: [keras.callbacks.TerminateOnNaN()],
            "takes mlpug's callbacks, not .*TerminateOnNaN.*: give it to the host trainer itself",
        ),
        (
            lambda: [mlp.callbacks.BatchSizeLogger()],
            "BatchSizeLogger needs the batches that are trained on.*from_keras",
        ),
        (
            lambda: [mlp.callbacks.TrainingMetricsLogger(metric_evaluator=of_batches())],
            "TrainingMetricsLogger needs the batches that are trained on",
        ),
        (lambda: [mlp.callbacks.LRSchedulerWrapper(lambda step: 1.0)], "needs the optimizers before training starts"),
    ],
)
def test_what_cant_work_is_said_when_it_is_made(make, message):
    with pytest.raises(ConfigurationError, match=message):
        mlp.callbacks.as_native(*make())


def of_batches():
    accuracy = mlp.evaluation.Metric(inputs=lambda batch, output: batch[1], compute=np.mean)
    return mlp.evaluation.MetricEvaluator(metrics={"accuracy": accuracy})


def test_several_steps_at_once_are_refused_before_the_first():
    trained = compiled(keras.Sequential([keras.Input((5,)), *layers()]), steps_per_execution=2)
    before = trained.get_weights()
    with pytest.raises(ConfigurationError, match="steps_per_execution=2 of them at once"):
        fit(trained, mlp.callbacks.as_native(Keep()))
    for weight, expected in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
