"""Who hears of the end of an epoch, and in which order, beside Lightning's callbacks that monitor a metric."""

import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug import checkpoints

BATCHES = [torch.full((2,), float(number)) for number in range(4)]
FILE = "run-training-checkpoint.safetensors"


class TrainModel(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return (self.weight[0] * batch_data).mean() ** 2


class Tell(mlp.callbacks.Callback):
    def __init__(self, told, what):
        self.told, self.what = told, what

    def on_epoch_completed(self, logs):
        self.told.append(self.what)


class Native(pl.Callback):
    def __init__(self, told, what):
        self.told, self.what = told, what

    def on_train_epoch_end(self, trainer, pl_module):
        self.told.append(self.what)


class Stopping(pl.callbacks.EarlyStopping):
    """Waits for a loss that is logged at each epoch and never gets better."""

    def __init__(self, told=None):
        super().__init__("loss", patience=10, min_delta=100.0)
        self.told = [] if told is None else told

    def on_train_epoch_end(self, trainer, pl_module):
        self.told.append("monitors")
        super().on_train_epoch_end(trainer, pl_module)


class LogLoss(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("loss", 1.0)


class StopAt(pl.Callback):
    """Stops as Lightning's own callbacks do, in the middle of an epoch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def train(callbacks, num_epochs=3, resume_from=None):
    weight = torch.nn.ParameterList([torch.zeros(1)])
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=weight, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, BATCHES, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(TrainModel(weight))
    manager.start_training(resume_from=resume_from)
    return manager


def saves(folder):
    return mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None)


def waited(path):
    callbacks = checkpoints.load(path)["lightning"]["callbacks"]
    return next(state["wait_count"] for name, state in callbacks.items() if name.startswith("Stopping"))


def test_list_order_holds_behind_a_callback_that_monitors():
    told = []
    train([Native(told, "native"), LogLoss(), Tell(told, "first"), Stopping(told), Tell(told, "behind")], num_epochs=1)

    assert told == ["native", "first", "monitors", "behind"]


def test_a_checkpoint_of_the_end_has_heard_of_the_last_epoch(tmp_path):
    train([saves(tmp_path), LogLoss(), Stopping()], num_epochs=3)

    assert waited(tmp_path / FILE) == 2  # the first epoch is the best


def test_where_mlpug_stops_within_an_epoch_nobody_hears_of_its_end(tmp_path):
    class StopOurs(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            if self.manager.global_iter == 6:
                self.manager.stop_training()

    told, stopping = [], Stopping()
    train([saves(tmp_path), LogLoss(), Native(told, "epoch"), stopping, StopOurs()])

    assert (told, stopping.wait_count) == (["epoch"], 0)
    assert waited(tmp_path / FILE) == 0


def test_where_lightnings_callback_stops_within_an_epoch_the_others_hear_as_without_mlpug_and_a_resume_goes_on(
    tmp_path,
):
    told, stopping = [], Stopping()
    train([saves(tmp_path), LogLoss(), Native(told, "epoch"), stopping, StopAt(6)])
    assert (told, stopping.wait_count) == (["epoch", "epoch"], 1)
    assert waited(tmp_path / FILE) == 0  # the state is of the last batch: the epoch's end is still to come

    told, stopping = [], Stopping()
    train([saves(tmp_path), LogLoss(), Native(told, "epoch"), stopping], resume_from="auto")
    assert (told, stopping.wait_count) == (["epoch", "epoch"], 2)
