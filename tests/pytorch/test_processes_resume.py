"""Two processes that are stopped and started again end where two that never stopped do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

TRAIN = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import mlpug.pytorch as mlp
from pytorch.native_projects import Measuring, loader, val_loader
from pytorch.native_runs import begin

folder, kind, stop_at, resumes = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "resumes"
PROCESSES = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False}


class Watch(mlp.callbacks.Callback):
    def __init__(self):
        self.losses = []
    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))
        if logs["current"]["global_iter"] == stop_at:
            self.manager.stop_training()


class TrainModel(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        return torch.nn.functional.cross_entropy(self.net(x), y)


def ordinary():
    net = Measuring().net  # with batch normalization and dropout
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    trainer = mlp.trainers.DefaultTrainer(optimizer, net, **PROCESSES)
    trainer.set_training_model(TrainModel(net))
    return trainer, net


def ported():
    module = Measuring()
    return mlp.trainers.DefaultTrainer.from_lightning(module, val_dataloaders=val_loader(), **PROCESSES), module


if __name__ == "__main__":
    begin(1)
    trainer, model = {"ordinary": ordinary, "ported": ported}[kind]()
    checkpoints = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=1)
    callbacks = [watch := Watch(), checkpoints]
    if kind == "ordinary":
        evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
        callbacks.insert(0, mlp.callbacks.TrainingMetricsLogger(evaluator))
    manager = mlp.trainers.TrainingManager(trainer, loader(), num_epochs=3, callbacks=callbacks)
    if resumes:
        torch.rand(7)  # what was drawn before a run is resumed doesn't matter
    manager.start_training(resume_from="auto" if resumes else None)
    found = (watch.losses, model.state_dict(), torch.get_rng_state())
    torch.save(found, f"{folder}/{trainer.process.rank}.pt")
"""
NEVER, STOP_AT = -1, 5  # in the second of three epochs of four batches


@pytest.fixture
def train(tmp_path):
    """Trains with two processes; for each of them losses, weights and the state of its random numbers."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)

    def run(kind, folder, stop_at=NEVER, resumes=False):
        (tmp_path / folder).mkdir(exist_ok=True)
        given = (Path(__file__).parents[1], tmp_path / folder, kind, stop_at, "resumes" if resumes else "starts")
        command = [sys.executable, str(script), *map(str, given)]
        trained = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert trained.returncode == 0, trained.stderr
        return [torch.load(tmp_path / folder / f"{rank}.pt") for rank in (0, 1)]

    return run


@pytest.mark.parametrize("kind", ["ordinary", "ported"])
def test_a_resumed_run_of_two_processes_equals_one_that_never_stopped(kind, train):
    whole = train(kind, "whole")
    stopped = train(kind, "stopped", stop_at=STOP_AT)
    resumed = train(kind, "stopped", resumes=True)
    for expected, first, second in zip(whole, stopped, resumed, strict=True):
        losses, weights, random = expected
        assert len(first[0]) == STOP_AT + 1 < len(losses) == 12
        assert all(type(loss) is float for loss in losses)
        assert first[0] + second[0] == losses
        assert weights.keys() == second[1].keys()
        for name, weight in weights.items():
            assert torch.equal(second[1][name], weight), name
        assert torch.equal(second[2], random)
    (losses, weights, _), (other_losses, other_weights, _) = whole
    assert losses != other_losses  # each process has its half of the data
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name]), name
