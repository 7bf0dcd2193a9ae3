"""Metrics of an evaluator that has no trainer: the values are tensors all the same."""

import numpy as np
import pytest
import torch

import mlpug.pytorch as mlp


class InHalfPrecision(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return self.linear(batch_data).mean().bfloat16()


class Keep(mlp.callbacks.Callback):
    def __init__(self, path):
        self.path, self.values = path, []

    def on_batch_training_completed(self, batch, logs):
        self.values.append(logs.at(self.path))


@pytest.mark.parametrize("path", ["training.batch.loss", "training.sliding_window.loss"])
def test_in_a_run_it_reads_as_the_trainer_does(path):
    linear = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(linear.weight, 2.0)
    torch.nn.init.constant_(linear.bias, 0.0)
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(linear.parameters(), lr=0.0), linear, accelerator="cpu")
    trainer.set_training_model(InHalfPrecision(linear))
    keep = Keep(path)
    callbacks = [mlp.callbacks.TrainingMetricsLogger(mlp.evaluation.MetricEvaluator()), keep]
    mlp.trainers.TrainingManager(trainer, [torch.ones(2, 1)], num_epochs=2, callbacks=callbacks).start_training()
    assert keep.values == [2.0, 2.0]


def test_a_function_may_return_a_loss_with_its_gradient():
    weight = torch.tensor(3.0, requires_grad=True)
    evaluator = mlp.evaluation.MetricEvaluator(model_evaluate_func=lambda batch, **_: (weight * batch).mean())
    assert evaluator.evaluate_dataset([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0])]) == {"loss": 9.0}


class OfAnotherLibrary:
    """A scalar array that PyTorch doesn't know."""

    shape = ()

    def __init__(self, number):
        self.number = number

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.number, dtype)


def test_in_a_run_a_function_may_return_what_another_library_computed():
    linear = torch.nn.Linear(1, 1)
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(linear.parameters(), lr=0.0), linear, accelerator="cpu")
    trainer.set_training_model(InHalfPrecision(linear))
    evaluator = mlp.evaluation.MetricEvaluator(model_evaluate_func=lambda batch, **_: OfAnotherLibrary(0.5))
    validate = mlp.callbacks.TestMetricsLogger([torch.ones(2, 1)], "validation", evaluator, batch_level=False)
    manager = mlp.trainers.TrainingManager(trainer, [torch.ones(2, 1)], num_epochs=1, callbacks=[validate])
    manager.start_training()
    assert manager.logs.at("validation.dataset.loss") == 0.5
