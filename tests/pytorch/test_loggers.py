"""Lightning's loggers of MLflow and of Weights & Biases, the real ones, each read back from the files that it wrote."""

import json

import pytest
import torch
import wandb
from mlflow.tracking import MlflowClient
from pytorch_lightning.loggers import MLFlowLogger, WandbLogger
from wandb.proto.wandb_internal_pb2 import Record

import mlpug.pytorch as mlp

PATHS = ("training.batch.loss", "training.sliding_window.loss", "training_params.batch.lr")
OF_EPOCHS = "validation.dataset.loss"
NUM_EPOCHS, NUM_BATCHES, PERIOD = 3, 4, 3
STEPS = [2, 5, 8, 11]  # every third batch over all of training, from 0
LAST_OF_EPOCHS = [3, 7, 11]


class TrainModel(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return torch.nn.functional.mse_loss(self.model(batch_data[0]), batch_data[1])


@pytest.fixture
def train():
    """Trains with a logger; gives what was in the logs, for each batch and for each epoch."""

    def run(logger):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        batches = [(torch.rand(8, 4), torch.rand(8, 1)) for _ in range(NUM_BATCHES)]
        trainer = mlp.trainers.DefaultTrainer(
            torch.optim.SGD(model.parameters(), lr=0.1),
            model,
            accelerator="cpu",
            logger=[logger],
            log_every_n_steps=PERIOD,
        )
        evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
        of_batches, of_epochs = mlp.callbacks.History(batch_level=True), mlp.callbacks.History()
        callbacks = [
            mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator),
            mlp.callbacks.TestMetricsLogger(batches[:2], "validation", metric_evaluator=evaluator, batch_level=False),
            of_batches,
            of_epochs,
        ]
        manager = mlp.trainers.TrainingManager(trainer, batches, num_epochs=NUM_EPOCHS, callbacks=callbacks)
        trainer.set_training_model(TrainModel(model))
        manager.start_training()
        return of_batches.to_dict(), of_epochs.to_dict()

    return run


def test_mlflow_gets_the_metrics_by_their_paths_at_their_steps(tmp_path, monkeypatch, train):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store that needs no database
    logger = MLFlowLogger("experiment", tracking_uri=f"file:{tmp_path}")
    of_batches, of_epochs = train(logger)
    client = MlflowClient(f"file:{tmp_path}")

    def logged(path):
        return [(metric.step, metric.value) for metric in client.get_metric_history(logger.run_id, path)]

    for path in PATHS:
        assert logged(path) == list(zip(STEPS, of_batches[path][2::PERIOD], strict=True))
    assert logged(OF_EPOCHS) == list(zip(LAST_OF_EPOCHS, of_epochs[OF_EPOCHS], strict=True))
    assert client.get_run(logger.run_id).info.status == "FINISHED"


def test_weights_and_biases_gets_the_metrics_by_their_paths_at_their_steps(tmp_path, train):
    logger = WandbLogger(save_dir=tmp_path, offline=True, settings=wandb.Settings(console="off", silent=True))
    try:
        of_batches, of_epochs = train(logger)
    finally:
        wandb.teardown()  # the process that writes the file has ended then, where finish() doesn't wait for it
    (file,) = tmp_path.rglob("run-*.wandb")
    rows = [row for row in map(history_row, records(file.read_bytes())) if row]

    def logged(path):
        return [(row["trainer/global_step"], row[path]) for row in rows if path in row]

    for path in PATHS:
        assert logged(path) == list(zip(STEPS, of_batches[path][2::PERIOD], strict=True))
    assert logged(OF_EPOCHS) == list(zip(LAST_OF_EPOCHS, of_epochs[OF_EPOCHS], strict=True))


def records(data):
    """Those of a file in LevelDB's log format, behind the seven bytes by which W&B's begin."""
    place, record = 7, b""
    while place + 7 <= len(data):
        left_in_block = 32768 - place % 32768
        if left_in_block < 7:
            place += left_in_block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def history_row(record):
    """What was logged, by name; nothing where the record is of another kind."""
    items = Record.FromString(record).history.item
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
