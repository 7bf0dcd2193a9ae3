"""Makes it an error that the host waits for the GPU, where nobody asked for a value."""

import warnings
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from gpu.accelerator import ACCELERATOR
from gpu.lightning_runs import NUM_BATCHES, NUM_FEATURES, by_step, make_batches, make_net, on_device
from torch.nn import functional

import mlpug.pytorch as mlp


def set_mode(mode):
    """ "error": what makes the host wait for the GPU raises; "default": it waits."""
    if ACCELERATOR == "gpu":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mode is a prototype
            torch.cuda.set_sync_debug_mode(mode)


class NoWaiting(mlp.callbacks.Callback):
    """From the second batch of an epoch to its last one."""

    def on_batch_training_start(self, batch, logs):
        if logs["current"]["batch_step"] == 1:
            set_mode("error")

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["batch_step"] == logs["final_batch_step"]:
            set_mode("default")


class NativeNoWaiting(pl.Callback):
    """The same."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            set_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == NUM_BATCHES - 1:
            set_mode("default")


class ReadsLoss(mlp.callbacks.Callback):
    """And hears that this waits."""

    def on_batch_training_completed(self, batch, logs):
        is_error = ACCELERATOR == "gpu" and logs["current"]["batch_step"] > 0
        with pytest.raises(RuntimeError, match="synchronizing") if is_error else nullcontext():
            logs.at("training.batch.loss")


def accuracy():
    return mlp.evaluation.Metric(
        inputs=lambda batch, output: {"labels": batch[1], "logits": output.auxiliary_results},
        compute=lambda inputs: (inputs["logits"].argmax(axis=1) == inputs["labels"]).mean(),
    )


def watching(metrics=None):
    evaluator = mlp.evaluation.MetricEvaluator(metrics=metrics)
    return [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator, sliding_window_length=5),
        mlp.callbacks.LogProgress(log_period=2 * NUM_BATCHES),
        NoWaiting(),
    ]


class Plain(pl.LightningModule):
    """Looks at no value itself."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(NUM_FEATURES), make_net())
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.detach())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return by_step(torch.optim.Adam(self.parameters(), lr=0.01))


def loader():
    return torch.utils.data.DataLoader(on_device(make_batches()), batch_size=None)
