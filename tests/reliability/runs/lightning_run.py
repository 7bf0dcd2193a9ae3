"""The run on PyTorch Lightning: BatchNorm and dropout, and a DataLoader that shuffles and augments."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from reliability.runs.parts import Places, Record, Settings, WholeRun, manager_of
from torch import nn

import mlpug.pytorch as mlp
from mlpug.callbacks import Callback

KINDS = ("0 workers", "2 workers")
NUM_SAMPLES, BATCH_SIZE, NUM_FEATURES = 22, 5, 6


def make(settings: Settings, passed: Places) -> WholeRun:
    """The run, and its start values, from the seed."""
    torch.set_num_threads(1)  # several such processes at once would wait for each other
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    layers = [nn.Linear(NUM_FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)]
    model = nn.Sequential(*layers).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=model, accelerator="cpu")
    workers = int(settings.kind.split()[0])
    loader = torch.utils.data.DataLoader(Augmented(passed), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
    record = Record(settings.journal, lambda: [torch.rand(()).item()], passed)
    stop = pl.callbacks.EarlyStopping("loss", min_delta=100.0, patience=settings.patience)
    of_host = [Schedule(optimizer), LogLoss(record, passed), stop]
    validation = [torch.utils.data.default_collate([sample(index) for index in range(7)])]
    manager = manager_of(settings, trainer, loader, validation, record, of_host, passed)
    trainer.set_training_model(TrainModel(model, passed))
    return WholeRun(manager, record, lambda: weights_of(model), lambda: numbers_of(stop.state_dict()))


def sample(index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    x = torch.sin(torch.arange(NUM_FEATURES, dtype=torch.float64) * 0.1 + index)
    return index, x, torch.tensor(index % 3, dtype=torch.float64)


class Augmented(torch.utils.data.Dataset):
    """With noise from every random state that a loading process has."""

    def __init__(self, passed: Places) -> None:
        self._passed = passed

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        self._passed("data")
        index, x, y = sample(index)
        noise = torch.randn(NUM_FEATURES, dtype=torch.float64) + random.random() + float(np.random.random())
        return index, x + 0.01 * noise, y


class TrainModel(nn.Module):
    """The mean squared error of the model."""

    def __init__(self, model: nn.Module, passed: Places) -> None:
        super().__init__()
        self.model = model
        self._passed = passed

    def forward(self, batch: Any, evaluate_settings: Any, inference_mode: Any = None) -> Any:
        if not inference_mode:
            self._passed("model")
        _, x, y = batch
        predictions = self.model(x).squeeze(1)
        return nn.functional.mse_loss(predictions, y), len(y), predictions


class Schedule(Callback):
    """One of torch's schedules."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        self._schedule.step()

    def get_state(self) -> Any:
        return self._schedule.state_dict()

    def set_state(self, state: Any) -> None:
        self._schedule.load_state_dict(state)


class LogLoss(pl.Callback):
    """Logs mlpug's validation loss as Lightning's own callbacks look for it."""

    def __init__(self, record: Record, passed: Places) -> None:
        self._record = record
        self._passed = passed

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._passed("native")
        self.log("loss", float(self._record.manager.logs.at("validation.dataset.loss")))


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def numbers_of(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
