"""A linear model with weighted squares, on the backend that the command line names."""

import importlib
import sys

BACKEND = sys.argv[1]
mlp = importlib.import_module(f"mlpug.{BACKEND}")

LEARNING_RATE = 0.05
WEIGHT, BIAS = [0.5, -0.25, 1.0], 0.125


def parts_of(batch):
    """x, y and the weights of the samples, of any nesting that the datasets have."""
    if not isinstance(batch, dict):
        return batch
    if "targets" in batch:
        return batch["inputs"]["x"], *batch["targets"]
    return batch["x"], batch["y"], batch["weight"]


if BACKEND == "pytorch":
    import torch

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)
            self.linear.weight.data = torch.tensor([WEIGHT])
            self.linear.bias.data = torch.tensor([BIAS])

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            x, y, weight = parts_of(batch_data)
            return (weight * (self.linear(x).squeeze(1) - y) ** 2).mean(), len(y)

    def new_trainer():
        model = TrainModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        trainer = mlp.trainers.DefaultTrainer(optimizer, model.linear, accelerator="cpu")
        trainer.set_training_model(model)
        return trainer

else:
    import keras
    import numpy as np

    class TrainModel(keras.Model):
        def __init__(self):
            super().__init__()
            self.linear = keras.layers.Dense(1)
            self.linear.build((None, 3))
            self.linear.set_weights([np.array(WEIGHT)[:, None], np.array([BIAS])])

        def call(self, batch_data, evaluate_settings, inference_mode=None):
            x, y, weight = parts_of(batch_data)
            predictions = keras.ops.squeeze(self.linear(x), axis=1)
            return keras.ops.mean(weight * keras.ops.square(predictions - y)), keras.ops.shape(y)[0]

    def new_trainer():
        model = TrainModel()
        trainer = mlp.trainers.DefaultTrainer(keras.optimizers.SGD(LEARNING_RATE), model.linear)
        trainer.set_training_model(model)
        return trainer


class Losses(mlp.callbacks.Callback):
    """Keeps the loss of each batch."""

    def __init__(self):
        self.losses = []

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))


def losses_of(trainer, dataset, **arguments):
    """Train; return the loss of each batch."""
    losses = Losses()
    metrics = mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator(trainer=trainer))
    mlp.trainers.TrainingManager(trainer, dataset, callbacks=[metrics, losses], **arguments).start_training()
    return losses.losses
