"""Evaluate accuracy with metrics of other libraries, given logits and labels; print the values as JSON."""

import json
import sys

import linear  # isort: skip - first, as it says on what Keras runs

import keras
import numpy as np
import torchmetrics

batches = [(np.asarray(logits, "float32"), np.asarray(labels, "int32")) for logits, labels in json.load(sys.stdin)]


def parts(batch_data):
    """The loss is of no interest; the logits come back from the device as auxiliary results."""
    logits, _ = batch_data
    return (logits * logits).mean() if linear.BACKEND == "pytorch" else keras.ops.mean(logits), len(batches), logits


if linear.BACKEND == "pytorch":
    import torch

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            loss, num_samples, logits = parts(batch_data)
            return loss, num_samples, logits * self.scale

    model = TrainModel()
    optimizer, options = torch.optim.SGD(model.parameters(), lr=0.1), {"accelerator": "cpu"}
else:

    class TrainModel(keras.Model):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

        def call(self, batch_data, evaluate_settings, inference_mode=None):
            loss, num_samples, logits = parts(batch_data)
            return loss, num_samples, logits * self.scale

    model, optimizer, options = TrainModel(), keras.optimizers.SGD(0.1), {}

trainer = linear.mlp.trainers.DefaultTrainer(optimizer, model, **options)
trainer.set_training_model(model)
accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
Metric = linear.mlp.evaluation.Metric
metrics = {
    "torchmetrics": Metric(lambda batch, output: (output.auxiliary_results, batch[1]), accuracy),
    "keras": Metric(
        lambda batch, output: (batch[1], output.auxiliary_results), keras.metrics.SparseCategoricalAccuracy()
    ),
    "joined": Metric(
        lambda batch, output: (output.auxiliary_results, batch[1]),
        lambda inputs: (inputs[0].argmax(axis=1) == inputs[1]).mean(),
    ),
}
evaluator = linear.mlp.evaluation.MetricEvaluator(trainer=trainer, metrics=metrics)
print(json.dumps({"keras runs on": keras.config.backend(), **evaluator.evaluate_dataset(batches)}))
