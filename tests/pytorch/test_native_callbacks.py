"""Lightning's own callbacks in mlpug's list, each held against the same training by Lightning alone."""

import csv

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from contract.backends.base import make_batches
from contract.backends.lightning import LightningBackend
from contract.keeper import Keeper
from pytorch_lightning import callbacks as natives
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError, MlpugWarning

NUM_EPOCHS = 8
BATCHES = [(torch.from_numpy(x).float(), torch.from_numpy(y).float()) for x, y in make_batches((8,) * 8)]
TRAINING, VALIDATION = BATCHES[:4], BATCHES[4:]


def new_model():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def mean_squared_error(model, batch):
    return torch.nn.functional.mse_loss(model(batch[0]).squeeze(1), batch[1])


class Module(pl.LightningModule):
    """What someone who knows Lightning would write."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return mean_squared_error(self.model, batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", mean_squared_error(self.model, batch), batch_size=len(batch[0]))

    def configure_optimizers(self):
        return new_optimizer(self.model)


class TrainModel(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return mean_squared_error(self.model, batch_data)


def new_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.4)


class Record(pl.Callback):
    """Where training is at each batch, and with which learning rate."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append((trainer.current_epoch, batch_idx, trainer.global_step, rate))


def loader(batches):
    return torch.utils.data.DataLoader(batches, batch_size=None)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def train_natively(callbacks, kind=Module, num_epochs=NUM_EPOCHS, **arguments):
    model, record = new_model(), Record()
    arguments = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, **arguments}
    if any(isinstance(callback, natives.ProgressBar) for callback in callbacks):
        arguments["enable_progress_bar"] = True
    if any(isinstance(callback, natives.Checkpoint) for callback in callbacks):
        arguments["enable_checkpointing"] = True
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=num_epochs,
        callbacks=[record, *callbacks],
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(kind(model), loader(TRAINING), loader(VALIDATION))
    return record.steps, model


def manager_of(callbacks, model=None, num_epochs=NUM_EPOCHS, **arguments):
    model = new_model() if model is None else model
    trainer = mlp.trainers.DefaultTrainer(new_optimizer(model), model, accelerator="cpu", **arguments)
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    metrics = [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator),
        mlp.callbacks.TestMetricsLogger(VALIDATION, "validation", metric_evaluator=evaluator, batch_level=False),
    ]
    manager = mlp.trainers.TrainingManager(trainer, TRAINING, num_epochs=num_epochs, callbacks=[*metrics, *callbacks])
    trainer.set_training_model(TrainModel(model))
    return manager


def train(callbacks, **arguments):
    record = Record()
    manager = manager_of([record, *callbacks], **arguments)
    manager.start_training()
    return record.steps, manager.trainer.model_components["model"]


def assert_same_weights(model, expected):
    for name, weight in expected.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), weight.numpy())


def weights_in(path):
    """Of a checkpoint of Lightning's, by their name in the model, whatever it is within."""
    weights = torch.load(path, weights_only=False)["state_dict"]
    return {".".join(name.split(".")[-2:]): weight.numpy() for name, weight in weights.items()}


def assert_same_files(folder, expected):
    names = sorted(str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == names
    for name in names:
        if name.endswith(".ckpt"):
            weights, expected_weights = weights_in(folder / name), weights_in(expected / name)
            assert weights.keys() == expected_weights.keys()
            for path, weight in expected_weights.items():
                np.testing.assert_array_equal(weights[path], weight)
    return names


CALLBACKS = {
    "EarlyStopping": lambda folder: natives.EarlyStopping("val_loss", patience=2),
    "EarlyStopping at a threshold": lambda folder: natives.EarlyStopping("val_loss", stopping_threshold=0.1),
    "ModelCheckpoint": lambda folder: natives.ModelCheckpoint(
        folder, monitor="val_loss", save_top_k=2, save_last=True, filename="{epoch}-{val_loss:.2f}"
    ),
    "ModelCheckpoint at steps": lambda folder: natives.ModelCheckpoint(
        folder, every_n_train_steps=3, save_top_k=-1, filename="{step}"
    ),
    "StochasticWeightAveraging": lambda folder: natives.StochasticWeightAveraging(
        swa_lrs=0.05, swa_epoch_start=3, annealing_epochs=3
    ),
    "Timer": lambda folder: natives.Timer(duration={"seconds": 0}, interval="epoch"),
    "Timer at a step": lambda folder: natives.Timer(duration={"seconds": 0}, interval="step"),
    "LambdaCallback": lambda folder: natives.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: setattr(trainer, "should_stop", trainer.global_step == 10)
    ),
    "EMAWeightAveraging": lambda folder: natives.EMAWeightAveraging(decay=0.9),
    "ModelPruning": lambda folder: natives.ModelPruning("l1_unstructured", amount=0.3),
}
STOPPED_BEFORE_THE_END = {
    "EarlyStopping",
    "EarlyStopping at a threshold",
    "Timer",
    "Timer at a step",
    "LambdaCallback",
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_it_does_what_it_does_without_mlpug(name, tmp_path):
    natively, ours = tmp_path / "natively", tmp_path / "ours"
    expected, here = CALLBACKS[name](natively), CALLBACKS[name](ours)
    expected_steps, expected_model = train_natively([expected])
    steps, model = train([here])
    assert steps == expected_steps
    assert (len(steps) < NUM_EPOCHS * len(TRAINING)) == (name in STOPPED_BEFORE_THE_END)
    assert_same_weights(model, expected_model)
    if isinstance(here, natives.ModelCheckpoint):
        assert len(assert_same_files(ours, natively)) >= 3
    if isinstance(here, natives.EarlyStopping):
        assert (here.stopped_epoch, here.wait_count) == (expected.stopped_epoch, expected.wait_count)
        # Lightning rounds its mean of losses at each batch.
        assert here.best_score.item() == pytest.approx(expected.best_score.item(), rel=1e-6)


def rows_of(folder):
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def columns(rows, *names):
    """Of the rows that have them all."""
    return [tuple(row[name] for name in names) for row in rows if all(row.get(name) for name in names)]


@pytest.mark.parametrize("interval", [None, "epoch", "step"])
def test_learning_rates_are_monitored_as_without_mlpug(interval, tmp_path):
    arguments = {"num_epochs": 3, "log_every_n_steps": 2}
    monitors = [natives.LearningRateMonitor(interval) for _ in range(2)]
    train_natively(monitors[:1], logger=CSVLogger(tmp_path / "natively"), **arguments)
    train(monitors[1:], logger=CSVLogger(tmp_path / "ours"), **arguments)
    expected = columns(rows_of(tmp_path / "natively"), "step", "lr-SGD")
    assert columns(rows_of(tmp_path / "ours"), "step", "lr-SGD") == expected
    assert len(expected) == {None: 9, "epoch": 3, "step": 6}[interval]


def test_learning_rates_of_a_schedule_are_monitored_as_without_mlpug(tmp_path):
    class Scheduled(Module):
        def configure_optimizers(self):
            optimizer = new_optimizer(self.model)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    _, model = train_natively(
        [natives.LearningRateMonitor("step")],
        kind=Scheduled,
        num_epochs=2,
        logger=CSVLogger(tmp_path / "natively"),
        log_every_n_steps=2,
    )
    schedule = mlp.callbacks.LRSchedulerWrapper(lambda step: 1 / (1 + step))
    manager = manager_of(
        [schedule, natives.LearningRateMonitor("step")],
        num_epochs=2,
        logger=CSVLogger(tmp_path / "ours"),
        log_every_n_steps=2,
    )
    manager.start_training()
    expected = columns(rows_of(tmp_path / "natively"), "step", "lr-SGD")
    assert columns(rows_of(tmp_path / "ours"), "step", "lr-SGD") == expected
    assert len(set(expected)) == 4
    assert_same_weights(manager.trainer.model_components["model"], model)


def test_statistics_of_the_device_are_logged_at_the_same_steps(tmp_path):
    arguments = {"log_every_n_steps": 3}
    train_natively([natives.DeviceStatsMonitor(cpu_stats=True)], logger=CSVLogger(tmp_path / "natively"), **arguments)
    train([natives.DeviceStatsMonitor(cpu_stats=True)], logger=CSVLogger(tmp_path / "ours"), **arguments)
    expected, rows = rows_of(tmp_path / "natively"), rows_of(tmp_path / "ours")
    names = [name for name in expected[0] if name.startswith("DeviceStatsMonitor.on_train_batch")]
    assert len(names) >= 6  # three at the start of a batch and three at its end
    for name in names:
        steps = [step for step, _ in columns(expected, "step", name)]
        assert len(steps) == 10
        assert [step for step, _ in columns(rows, "step", name)] == steps


class Bar(pl.Callback):
    """What the bar before it in the list shows."""

    def __init__(self, bar):
        self.bar, self.shown = bar, []

    def on_train_batch_end(self, trainer, *_):
        if isinstance(self.bar, natives.TQDMProgressBar):
            shown = self.bar.train_progress_bar.n, self.bar.train_progress_bar.total
        else:
            task = self.bar.progress.tasks[self.bar.train_progress_bar_id]
            shown = task.completed, task.total
        self.shown.append((trainer.current_epoch, *shown))


@pytest.mark.parametrize("kind", [natives.TQDMProgressBar, natives.RichProgressBar])
def test_a_progress_bar_moves_as_without_mlpug(kind):
    here, expected = Bar(kind()), Bar(kind())
    train_natively([expected.bar, expected])
    train([here.bar, here])
    assert here.shown == expected.shown
    assert here.shown[-1] == (NUM_EPOCHS - 1, 4, 4)


@pytest.mark.parametrize("kind", [natives.ModelSummary, natives.RichModelSummary])
def test_a_summary_counts_the_parameters_once(kind, capsys, caplog):
    caplog.set_level("INFO")
    manager = manager_of([kind()], num_epochs=1)
    manager.start_training()
    num_parameters = sum(parameter.numel() for parameter in new_model().parameters())
    shown = capsys.readouterr().out + caplog.text
    (line,) = (line for line in shown.splitlines() if "Total params" in line)
    assert str(num_parameters) in line


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("val_loss", "validation.dataset.loss"),
        ("loss", "training.sliding_window.loss"),
        ("training.batch.loss", "training.batch.loss"),
        ("validation.dataset.loss", "validation.dataset.loss"),
    ],
)
def test_a_metric_is_monitored_under_its_path_and_its_native_name(name, path, tmp_path):
    stopping = natives.EarlyStopping(name, patience=NUM_EPOCHS)
    checkpoint = natives.ModelCheckpoint(tmp_path, monitor=name, filename=f"{{{name}:.3f}}")
    history = mlp.callbacks.History()
    train([stopping, checkpoint, history])
    values = history.to_dict()[path]
    assert stopping.best_score.item() == np.float32(min(values))
    assert checkpoint.best_model_score.item() == np.float32(min(values))
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}={min(values):.3f}.ckpt"]


def test_metrics_are_those_that_stand_in_the_logs_when_the_callback_is_called(tmp_path):
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("test_loss"))

    behind = Look()
    manager = manager_of([])
    evaluator = mlp.evaluation.MetricEvaluator(trainer=manager.trainer)
    test = mlp.callbacks.TestMetricsLogger(VALIDATION, "test", metric_evaluator=evaluator, batch_level=False)
    history = mlp.callbacks.History()
    callbacks = [Look(), test, behind, history]
    mlp.trainers.TrainingManager(manager.trainer, TRAINING, num_epochs=2, callbacks=callbacks).start_training()
    first, second = history.to_dict()["test.dataset.loss"]
    shown = [None if value is None else value.item() for value in seen]
    assert shown == [None, np.float32(first), np.float32(first), np.float32(second)]


def test_after_training_the_metrics_are_still_there():
    manager = manager_of([natives.EarlyStopping("val_loss")], num_epochs=1)
    manager.start_training()
    metrics = manager.trainer.native.trainer.callback_metrics
    assert metrics["val_loss"].item() == np.float32(manager.logs.at("validation.dataset.loss"))


def test_loggers_get_the_metrics_by_their_paths_where_it_is_time(tmp_path):
    batches, epochs = mlp.callbacks.History(batch_level=True), mlp.callbacks.History()
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")]
    manager = manager_of([batches, epochs], num_epochs=3, logger=loggers, log_every_n_steps=3)
    manager.start_training()
    rows, of_batches, of_epochs = rows_of(tmp_path / "csv"), batches.to_dict(), epochs.to_dict()
    for path in ("training.batch.loss", "training.sliding_window.loss", "training_params.batch.lr"):
        logged = columns(rows, "step", "epoch", path)
        assert [(int(step), float(epoch)) for step, epoch, _ in logged] == [(2, 0), (5, 1), (8, 2), (11, 2)]
        assert [float(value) for *_, value in logged] == of_batches[path][2::3]
    path = "validation.dataset.loss"
    assert [(int(step), float(value)) for step, value in columns(rows, "step", path)] == [
        (3 + 4 * epoch, value) for epoch, value in enumerate(of_epochs[path])
    ]
    (folder,) = {file.parent for file in (tmp_path / "board").rglob("events.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars(path)] == [
        (3 + 4 * epoch, np.float32(value)) for epoch, value in enumerate(of_epochs[path])
    ]
    assert [event.step for event in events.Scalars("training.batch.loss")] == [2, 5, 8, 11]


def test_nothing_is_read_for_callbacks_that_dont_look_nor_for_loggers_at_other_batches(tmp_path):
    def transfers(callbacks, **arguments):
        model = new_model()
        trainer = mlp.trainers.DefaultTrainer(new_optimizer(model), model, accelerator="cpu", **arguments)
        metrics = mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator(trainer=trainer))
        trainer.set_training_model(TrainModel(model))
        in_batches = []

        class Count(mlp.callbacks.Callback):
            def on_batch_training_start(self, batch, logs):
                in_batches.append(len(seen))

        manager = mlp.trainers.TrainingManager(trainer, TRAINING, callbacks=[Count(), metrics, *callbacks])
        with LightningBackend().transfers() as seen:
            manager.start_training()
        return in_batches[-1] - in_batches[0]

    assert transfers([]) == transfers([pl.Callback()], logger=CSVLogger(tmp_path), log_every_n_steps=4) == 0
    assert transfers([pl.Callback()], logger=CSVLogger(tmp_path), log_every_n_steps=2) > 0


def test_a_logger_of_the_other_lightning_is_refused(tmp_path):
    import lightning.pytorch

    model = new_model()
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    with pytest.raises(ConfigurationError, match="the two don't mix"):
        mlp.trainers.DefaultTrainer(new_optimizer(model), model, logger=[logger])


class Normalized(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.BatchNorm1d(1))

    def forward(self, x):
        return self.layers(x)


REFUSED = {
    "accumulation": (lambda: natives.GradientAccumulationScheduler({0: 2}), "gradient_accumulation_steps="),
    "finetuning": (lambda: natives.BackboneFinetuning(2), r"DefaultTrainer.from_lightning\(module\)"),
    "trial batches": (natives.BatchSizeFinder, "trains for trial"),
    "trial rates": (natives.LearningRateFinder, "trains for trial"),
    "stopping after validation": (
        lambda: natives.EarlyStopping("val_loss", check_on_train_epoch_end=False),
        "check_on_train_epoch_end=False waits for Lightning's validation",
    ),
    "saving after validation": (
        lambda: natives.ModelCheckpoint(monitor="val_loss", save_on_train_epoch_end=False),
        "leave save_on_train_epoch_end out",
    ),
    "a monitor that nobody publishes": (
        lambda: natives.EarlyStopping("val_los"),
        "EarlyStopping monitors 'val_los', which nobody publishes. Published are epoch, loss, step, val_loss, and the "
        "paths .*training.sliding_window.loss, .*validation.dataset.loss",
    ),
    "a path that nobody writes": (
        lambda: natives.ModelCheckpoint(monitor="test.dataset.loss"),
        "ModelCheckpoint monitors 'test.dataset.loss', which nobody publishes",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cant_work_is_refused_when_the_manager_is_made(what):
    make, words = REFUSED[what]
    with pytest.raises(ConfigurationError, match=words):
        manager_of([make()])


def test_averaging_weights_over_batch_normalization_is_refused_before_the_first_batch():
    manager = manager_of([natives.StochasticWeightAveraging(swa_lrs=0.1)], model=Normalized())
    with pytest.raises(ConfigurationError, match="batch normalization, and here every batch is an update"):
        manager.start_training()
    assert manager.global_iter == 0


def test_a_monitor_that_a_callback_of_the_users_own_logs_is_let_through():
    class LogMore(pl.Callback):
        def on_train_batch_end(self, *_):
            self.log("more", 1.0)

    stopping = natives.EarlyStopping("more", patience=2)
    steps, _ = train([LogMore(), stopping])
    assert steps[-1][:2] == (2, 3)  # the first is the best


def run_with_natives(folder, callbacks=(), resume_from=None):
    stopping = natives.EarlyStopping("val_loss", patience=2)
    checkpoint = natives.ModelCheckpoint(folder, monitor="val_loss", filename="{epoch}", save_top_k=2)
    manager = manager_of([*callbacks, stopping, checkpoint])
    manager.start_training(resume_from=resume_from)
    remembered = (stopping.stopped_epoch, stopping.wait_count, stopping.best_score, checkpoint.best_k_models)
    files = {path.name: weights_in(path) for path in folder.iterdir()}
    return remembered, files, manager.trainer.model_components["model"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_resumed_after_any_batch_equals_one_that_never_stopped(tmp_path):
    folder = tmp_path / "files"
    kept = []  # the files that were there at each rest

    class KeepFiles(Keeper):
        def on_rest(self, logs, is_last):
            super().on_rest(logs, is_last)
            kept.append({path: path.read_bytes() for path in folder.glob("*")})

    keeper = KeepFiles(tmp_path)
    remembered, files, model = run_with_natives(folder, [keeper])
    assert remembered[:2] == (4, 2)  # stopped in the fifth epoch, when the third had been the best
    for (state, _), of_state in zip(keeper.saved[:-2], kept, strict=False):  # those before it was stopped
        for path in folder.iterdir():
            path.unlink()
        for path, content in of_state.items():
            path.write_bytes(content)
        remembered_here, files_here, model_here = run_with_natives(folder, resume_from=state)
        assert remembered_here == remembered
        assert_same_weights(model_here, model)
        assert files_here.keys() == files.keys()
        for name, weights in files_here.items():
            for path, weight in weights.items():
                np.testing.assert_array_equal(weight, files[name][path])


@pytest.mark.parametrize(
    "make", [lambda: natives.StochasticWeightAveraging(swa_lrs=0.1), lambda: natives.ModelPruning("l1_unstructured")]
)
def test_a_run_that_couldnt_go_on_exactly_says_so_and_isnt_resumed(make, tmp_path):
    keeper, name = Keeper(tmp_path), type(make()).__name__
    with pytest.warns(MlpugWarning, match=f"of a run with {name}, from which it can't be resumed"):
        manager_of([keeper, make()], num_epochs=2).start_training()
    manager = manager_of([make()], num_epochs=2)
    with pytest.raises(ConfigurationError, match=f"A run with {name} can't be resumed"):
        manager.start_training(resume_from=keeper.saved[2][0])
