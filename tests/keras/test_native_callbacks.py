"""Keras's own callbacks in mlpug's list, each held against the same training by ``model.fit`` alone."""

import csv
import re
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches
from contract.keeper import Keeper

import mlpug.callbacks
from mlpug.errors import ConfigurationError
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.trainers import TrainingManager

natives = keras.callbacks
NUM_EPOCHS, BATCH_SIZE = 8, 8
BATCHES = [(x.astype("float32"), y.astype("float32")) for x, y in make_batches((BATCH_SIZE,) * 8)]
TRAINING, VALIDATION = BATCHES[:4], BATCHES[4:]
SINGLE = {"rtol": 1e-4, "atol": 1e-6}  # 32 steps in single precision, whose sums two compilers round differently


def new_model():
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="tanh"), layers.Dense(1)])
    random = np.random.default_rng(5)
    model.set_weights([random.normal(size=weight.shape, scale=0.3) for weight in model.weights])
    return model


def new_optimizer(**options):
    return keras.optimizers.SGD(0.2, **options)


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        predictions = self.model(x)[:, 0]
        return keras.ops.mean(keras.ops.square(predictions - y)), keras.ops.shape(y)[0], predictions


class Record(natives.Callback):
    """Where training is at each batch, with which learning rate, and what the logs are."""

    def __init__(self):
        super().__init__()
        self.steps, self.logs_of_batches, self.logs_of_epochs = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.steps.append((self.epoch, batch, float(self.model.optimizer.learning_rate)))

    def on_train_batch_end(self, batch, logs=None):
        self.logs_of_batches.append(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.logs_of_epochs.append(dict(logs))


def train_natively(callbacks, training=TRAINING, verbose=0, **optimizer_options):
    model, record = new_model(), Record()
    model.compile(new_optimizer(**optimizer_options), "mse", metrics=["mae"])
    (x, y), validation = (tuple(map(np.concatenate, zip(*batches, strict=True))) for batches in (training, VALIDATION))
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=NUM_EPOCHS,
        shuffle=False,
        verbose=verbose,
        validation_data=validation,
        validation_batch_size=BATCH_SIZE,
        callbacks=[*callbacks, record],
    )
    return record, model


def manager_of(backend, callbacks, training=TRAINING, first=(), **optimizer_options):
    """Native callbacks behind mlpug's that write metrics, and others before them."""
    model = new_model()
    trainer = backend.mlp.trainers.DefaultTrainer(new_optimizer(**optimizer_options), model)
    error = Metric(lambda batch, output: (output.auxiliary_results, batch[1]), mean_absolute_error)
    evaluator = MetricEvaluator(trainer=trainer, metrics={"mae": error})
    metrics = [
        mlpug.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator, sliding_window_length=len(training)),
        mlpug.callbacks.TestMetricsLogger(VALIDATION, "validation", metric_evaluator=evaluator, batch_level=False),
    ]
    manager = TrainingManager(trainer, training, num_epochs=NUM_EPOCHS, callbacks=[*first, *metrics, *callbacks])
    trainer.set_training_model(TrainModel(model))
    return manager


def mean_absolute_error(inputs):
    predictions, y = inputs
    return np.abs(predictions - y).mean()


def train(backend, callbacks, **options):
    record = Record()
    manager = manager_of(backend, [*callbacks, record], **options)
    manager.start_training()
    return record, manager.trainer.model_components["model"]


def assert_same_weights(model, expected):
    for weight, expected_weight in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected_weight, **SINGLE)


def assert_same_files(folder, expected):
    """The same names, and the same weights for a new model."""
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        models = [loaded(path / name) for path in (folder, expected)]
        assert_same_weights(*models)
    return names


def loaded(path):
    if path.name.endswith(".keras"):
        return keras.models.load_model(path)
    model = new_model()
    model.load_weights(path)
    return model


def stop_at_batch(number):
    def on_train_batch_end(batch, logs):
        seen.append(batch)
        callback.model.stop_training = len(seen) == number

    seen = []
    callback = natives.LambdaCallback(on_train_batch_end=on_train_batch_end)
    return callback


CALLBACKS = {
    "EarlyStopping": lambda folder: natives.EarlyStopping("val_loss", min_delta=0.01, patience=2),
    "EarlyStopping on a metric": lambda folder: natives.EarlyStopping("val_mae", min_delta=0.01, mode="min"),
    "EarlyStopping on the training loss": lambda folder: natives.EarlyStopping("loss", min_delta=0.01, patience=1),
    "EarlyStopping with the best weights": lambda folder: natives.EarlyStopping(
        min_delta=0.01, patience=2, restore_best_weights=True
    ),
    "ReduceLROnPlateau": lambda folder: natives.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.01),
    "LearningRateScheduler": lambda folder: natives.LearningRateScheduler(lambda epoch, rate: rate * 0.8),
    "ModelCheckpoint": lambda folder: natives.ModelCheckpoint(folder / "{epoch:02d}-{val_loss:.2f}.keras"),
    "ModelCheckpoint of weights": lambda folder: natives.ModelCheckpoint(
        folder / "{epoch:02d}-{loss:.2f}-{val_mae:.2f}.weights.h5", save_weights_only=True, save_best_only=True
    ),
    "ModelCheckpoint at batches": lambda folder: natives.ModelCheckpoint(
        folder / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=5
    ),
    "LambdaCallback": lambda folder: stop_at_batch(10),
    "TerminateOnNaN": lambda folder: natives.TerminateOnNaN(),
    "ProgbarLogger": lambda folder: natives.ProgbarLogger(),
}
STOPPED_BEFORE_THE_END = {
    "EarlyStopping",
    "EarlyStopping on a metric",
    "EarlyStopping on the training loss",
    "EarlyStopping with the best weights",
    "LambdaCallback",
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_it_does_what_it_does_without_mlpug(backend, name, tmp_path):
    natively, ours = tmp_path / "natively", tmp_path / "ours"
    expected_callback, callback = CALLBACKS[name](natively), CALLBACKS[name](ours)
    expected, expected_model = train_natively([expected_callback])
    here, model = train(backend, [callback])
    assert here.steps == expected.steps
    assert (len(here.steps) < NUM_EPOCHS * len(TRAINING)) == (name in STOPPED_BEFORE_THE_END)
    assert_same_weights(model, expected_model)
    # Stopped within an epoch, Keras evaluates once more, and mlpug doesn't.
    assert_same_logs(
        here, expected, names=("loss",) if name == "LambdaCallback" else ("loss", "mae", "val_loss", "val_mae")
    )
    if isinstance(callback, natives.ModelCheckpoint):
        assert len(assert_same_files(ours, natively)) >= 3
    for attribute in ("stopped_epoch", "wait", "best_epoch", "cooldown_counter"):
        assert getattr(callback, attribute, None) == getattr(expected_callback, attribute, None)


def assert_same_logs(here, expected, names):
    for logs, expected_logs in zip(here.logs_of_epochs, expected.logs_of_epochs, strict=True):
        assert logs.keys() == expected_logs.keys()
        for name in names:
            np.testing.assert_allclose(logs[name], expected_logs[name], **SINGLE)
    for logs, expected_logs in zip(here.logs_of_batches, expected.logs_of_batches, strict=True):
        assert logs.keys() == expected_logs.keys()
        np.testing.assert_allclose(logs["loss"], expected_logs["loss"], **SINGLE)


def test_averaged_weights_are_swapped_in_and_out_as_without_mlpug(backend, tmp_path):
    def callbacks(folder):
        files = folder / "{epoch}.weights.h5"
        return [natives.SwapEMAWeights(swap_on_epoch=True), natives.ModelCheckpoint(files, save_weights_only=True)]

    averages = {"use_ema": True, "ema_momentum": 0.9}
    expected, expected_model = train_natively(callbacks(tmp_path / "natively"), **averages)
    here, model = train(backend, callbacks(tmp_path / "ours"), **averages)
    assert here.steps == expected.steps
    assert_same_weights(model, expected_model)
    assert len(assert_same_files(tmp_path / "ours", tmp_path / "natively")) == NUM_EPOCHS
    last = loaded(tmp_path / "ours" / f"{NUM_EPOCHS}.weights.h5")
    assert_same_weights(last, model)  # the averaged ones are those that stay


def test_a_loss_that_isnt_a_number_ends_training_as_without_mlpug(backend):
    x, y = TRAINING[2]
    training = [*TRAINING[:2], (x, y * np.float32(np.nan)), TRAINING[3]]
    expected, _ = train_natively([natives.TerminateOnNaN()], training=training)
    here, _ = train(backend, [natives.TerminateOnNaN()], training=training)
    assert here.steps == expected.steps
    assert len(here.steps) == 3


class AddsToLogs(natives.Callback):
    """What it adds to its logs of an epoch isn't in those of the end of training."""

    def on_epoch_end(self, epoch, logs=None):
        logs["mine"] = 1.0

    def on_train_end(self, logs=None):
        self.names_at_end = sorted(logs)


def test_at_the_end_of_training_it_is_shown_what_it_is_without_mlpug(backend):
    native, ours = AddsToLogs(), AddsToLogs()
    train_natively([native])
    train(backend, [ours])
    assert ours.names_at_end == native.names_at_end == ["loss", "mae", "val_loss", "val_mae"]


def test_a_csv_file_has_the_same_columns_and_numbers(backend, tmp_path):
    schedule = natives.LearningRateScheduler(lambda epoch, rate: rate * 0.8)
    train_natively([schedule, natives.CSVLogger(tmp_path / "natively.csv")])
    train(backend, [schedule, natives.CSVLogger(tmp_path / "ours.csv")])
    rows, expected = (
        [*csv.DictReader((tmp_path / name).read_text().splitlines())] for name in ("ours.csv", "natively.csv")
    )
    assert [*rows[0]] == [*expected[0]] == ["epoch", "learning_rate", "loss", "mae", "val_loss", "val_mae"]
    for name in expected[0]:
        values = [[float(row[name]) for row in each] for each in (rows, expected)]
        np.testing.assert_allclose(*values, **SINGLE)


def test_a_bar_prints_the_same(backend, capsys):
    train_natively([natives.ProgbarLogger()], verbose=1)
    expected = shown(capsys.readouterr().out)
    train(backend, [natives.ProgbarLogger()])
    printed = shown(capsys.readouterr().out)
    assert [text for text, _ in printed] == [text for text, _ in expected]
    assert ("Epoch 8/8", []) in printed
    for (_, numbers), (_, expected_numbers) in zip(printed, expected, strict=True):
        # Four digits are printed. Between epochs' ends Keras's own mean of a metric isn't mlpug's window.
        np.testing.assert_allclose(numbers, expected_numbers, atol=2e-4)


def shown(printed):
    """The lines of epochs and of their ends, with their numbers."""
    lines = [line for line in re.split("[\n\r\b]+", re.sub("\x1b\\[[0-9;]*m", "", printed)) if line]
    kept = [line for line in lines if line.startswith("Epoch") or "val_loss" in line]
    return [
        (re.sub(r"[0-9.]+[mu]?s(/step)?|: [0-9.e-]+", "", line), [float(n) for n in re.findall(r": ([0-9.e-]+)", line)])
        for line in kept
    ]


if find_spec("tensorflow"):  # which Keras's own callback writes event files with, on any backend
    from tensorflow.compat.v1.train import summary_iterator

    def test_event_files_have_the_same_curves(backend, tmp_path):
        train_natively([natives.TensorBoard(tmp_path / "natively", update_freq=3)])
        train(backend, [natives.TensorBoard(tmp_path / "ours", update_freq=3)])
        curves, expected = curves_in(tmp_path / "ours"), curves_in(tmp_path / "natively")
        assert curves.keys() == expected.keys() - {
            ("validation", f"evaluation_{name}_vs_iterations") for name in LOGGED
        }
        assert {("train", "epoch_loss"), ("validation", "epoch_mae"), ("train", "batch_loss")} <= curves.keys()
        for (run, tag), points in curves.items():
            assert [step for step, _ in points] == [step for step, _ in expected[run, tag]]
            if tag not in ("batch_steps_per_second", "epoch_steps_per_second", "batch_mae"):
                values = [[value for _, value in each] for each in (points, expected[run, tag])]
                np.testing.assert_allclose(*values, **SINGLE)

    LOGGED = ("loss", "mae")

    def curves_in(folder):
        curves = {}
        for path in sorted(folder.rglob("events.*")):
            for event in summary_iterator(str(path)):
                for value in event.summary.value:
                    if value.HasField("tensor") and value.tensor.dtype == 1 and not value.tensor.tensor_shape.dim:
                        points = curves.setdefault((path.parent.name, value.tag), [])
                        points.append((event.step, keras.ops.convert_to_numpy(as_number(value.tensor))))
        return curves

    def as_number(tensor):
        import tensorflow as tf

        return tf.make_ndarray(tensor)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("val_loss", "validation.dataset.loss"),
        ("validation.dataset.loss", "validation.dataset.loss"),
        ("training.sliding_window.loss", "training.sliding_window.loss"),
        ("mae", "training.sliding_window.mae"),
        ("validation.dataset.mae", "validation.dataset.mae"),
    ],
)
def test_a_metric_is_monitored_under_its_path_and_its_native_name(backend, name, path):
    mode = "auto" if name.endswith("loss") else "min"
    stopping, history = natives.EarlyStopping(name, patience=NUM_EPOCHS, mode=mode), mlpug.callbacks.History()
    train(backend, [stopping, history])
    assert stopping.best == min(history.to_dict()[path])


def test_metrics_are_those_that_stand_in_the_logs_when_the_callback_is_called(backend):
    seen = []

    class Look(natives.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs.get("validation.dataset.loss"))

    history = mlpug.callbacks.History()
    train(backend, [Look(), history], first=[Look()])
    values = history.to_dict()["validation.dataset.loss"]
    assert seen[::2] == [None, *values[:-1]]
    assert seen[1::2] == values


REFUSED = {
    "going on by itself": (lambda: natives.BackupAndRestore("backup"), r"start_training\(resume_from='auto'\)"),
    "swapping for Keras's evaluation": (natives.SwapEMAWeights, "Give swap_on_epoch=True"),
    "which is better": (lambda: natives.EarlyStopping("val_mae"), "pass mode='min' or mode='max'"),
    "a monitor that nobody publishes": (
        lambda: natives.EarlyStopping("val_los", mode="min"),
        "EarlyStopping monitors 'val_los', which nobody publishes. Published are loss, mae, val_loss, val_mae, and the "
        "paths .*training.sliding_window.mae, .*validation.dataset.loss",
    ),
    "a learning rate that nobody writes": (
        lambda: natives.EarlyStopping("learning_rate", mode="min"),
        "EarlyStopping monitors 'learning_rate', which nobody publishes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cant_work_is_refused_when_the_manager_is_made(backend, what):
    make, words = REFUSED[what]
    with pytest.raises(ConfigurationError, match=words):
        manager_of(backend, [make()])


def test_what_isnt_looked_at_or_is_written_by_natives_can_be_monitored(backend, tmp_path):
    trainer = backend.trainer()
    schedule = natives.LearningRateScheduler(lambda epoch, rate: rate)
    saving = natives.ModelCheckpoint(tmp_path / "weights.keras")  # of "val_loss", which it needs for the best one only
    stopping = natives.EarlyStopping("learning_rate", mode="min")
    TrainingManager(trainer, TRAINING, callbacks=[schedule, saving, stopping, natives.EarlyStopping("loss")])
    best = natives.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    with pytest.raises(ConfigurationError, match="ModelCheckpoint monitors 'val_loss', which nobody publishes"):
        TrainingManager(trainer, TRAINING, callbacks=[best])


class TwoParts(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = (keras.Sequential([keras.Input((units,)), keras.layers.Dense(1)]) for units in (6, 1))

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        return keras.ops.mean(keras.ops.square(self.second(self.first(x))[:, 0] - y))


def test_of_several_components_the_whole_training_model_is_saved(backend, tmp_path):
    model, path = TwoParts(), tmp_path / "whole.weights.h5"
    parts = {"first": model.first, "second": model.second}
    trainer = backend.mlp.trainers.DefaultTrainer(new_optimizer(), parts)
    saving = natives.ModelCheckpoint(path, save_weights_only=True)
    manager = TrainingManager(trainer, TRAINING, callbacks=[saving])
    trainer.set_training_model(model)
    manager.start_training()
    other = TwoParts()
    parts = {"first": other.first, "second": other.second}
    trainer = backend.mlp.trainers.DefaultTrainer(new_optimizer(), parts)
    trainer.set_training_model(other)
    trainer.native.load_weights(path)
    assert_same_weights(other, model)


def test_a_component_that_keras_cant_save_is_refused_before_the_first_batch(backend, tmp_path):
    model = TrainModel(keras.layers.Dense(1))
    trainer = backend.mlp.trainers.DefaultTrainer(new_optimizer(), model.model)
    manager = TrainingManager(trainer, TRAINING, callbacks=[natives.ModelCheckpoint(tmp_path / "model.keras")])
    trainer.set_training_model(model)
    with pytest.raises(
        ConfigurationError, match=r"ModelCheckpoint saves a keras\.Model, and the model component is a Dense"
    ):
        manager.start_training()
    assert manager.global_iter == 0


def test_nothing_is_read_for_callbacks_that_dont_look(backend):
    class Deaf(natives.Callback):
        def on_train_batch_end(self, batch, logs=None):
            """Doesn't look."""

    class Looking(natives.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert logs["loss"] > 0

    def transfers(callbacks):
        model, counts = new_model(), []
        trainer = backend.mlp.trainers.DefaultTrainer(new_optimizer(), model)
        trainer.set_training_model(TrainModel(model))
        metrics = mlpug.callbacks.TrainingMetricsLogger(metric_evaluator=MetricEvaluator(trainer=trainer))

        class Count(mlpug.callbacks.Callback):
            def on_batch_training_start(self, batch, logs):
                counts.append(len(seen))

        with backend.transfers() as seen:
            TrainingManager(trainer, TRAINING, callbacks=[Count(), metrics, *callbacks]).start_training()
        return counts[-1] - counts[1]  # between the first batch, where steps are compiled, and the last

    assert transfers([Deaf()]) == transfers([]) == 0
    assert transfers([Looking()]) >= 2


def test_a_run_resumed_after_any_batch_equals_one_that_never_stopped(backend, tmp_path):
    def run(first=(), resume_from=None):
        stopping = natives.EarlyStopping("loss", min_delta=0.01, patience=2, restore_best_weights=True)
        plateau = natives.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.01)
        record = Record()
        record.epoch = 0
        manager = manager_of(backend, [stopping, plateau, record], first=first)
        manager.start_training(resume_from=resume_from)
        remembered = stopping.stopped_epoch, stopping.wait, stopping.best, stopping.best_epoch, plateau.wait
        return remembered, record, manager.trainer.model_components["model"]

    keeper = Keeper(tmp_path)
    remembered, record, model = run([keeper])
    assert 0 < remembered[0] < NUM_EPOCHS - 1
    assert len({rate for *_, rate in record.steps}) > 1
    for state, _ in keeper.saved[:-2:3]:  # not that of the epoch's end at which it was stopped
        remembered_here, record_here, model_here = run(resume_from=state)
        assert remembered_here == remembered
        assert record_here.logs_of_epochs == record.logs_of_epochs[-len(record_here.logs_of_epochs) :]
        for weight, expected in zip(model_here.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)
