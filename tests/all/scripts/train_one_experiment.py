"""Train a small network from given weights on given batches; print the loss of each batch as JSON."""

import json
import sys

import linear  # isort: skip - first, as it says on what Keras runs

import numpy as np

experiment = json.load(sys.stdin)
batches = [tuple(np.asarray(array, "float32") for array in batch) for batch in experiment["batches"]]
weights = [np.asarray(weight, "float32") for weight in experiment["weights"]]
first, first_bias, second, second_bias = weights

if linear.BACKEND == "pytorch":
    import torch

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            hidden, output = torch.nn.Linear(*first.shape), torch.nn.Linear(*second.shape)
            self.network = torch.nn.Sequential(hidden, torch.nn.Tanh(), output)
            with torch.no_grad():
                for parameter, weight in zip(self.network.parameters(), weights, strict=True):
                    parameter.copy_(torch.from_numpy(weight.T))

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            x, y = batch_data
            return torch.nn.functional.mse_loss(self.network(x).squeeze(1), y), len(y)

    model = TrainModel()
    optimizer, options = torch.optim.SGD(model.parameters(), lr=experiment["learning_rate"]), {"accelerator": "cpu"}
else:
    import keras

    class TrainModel(keras.Model):
        def __init__(self):
            super().__init__()
            hidden = keras.layers.Dense(first.shape[1], activation="tanh")
            self.network = keras.Sequential([keras.Input((first.shape[0],)), hidden, keras.layers.Dense(1)])
            self.network.set_weights(weights)

        def call(self, batch_data, evaluate_settings, inference_mode=None):
            x, y = batch_data
            predictions = keras.ops.squeeze(self.network(x), axis=1)
            return keras.ops.mean(keras.ops.square(predictions - y)), keras.ops.shape(y)[0]

    model = TrainModel()
    optimizer, options = keras.optimizers.SGD(experiment["learning_rate"]), {}

trainer = linear.mlp.trainers.DefaultTrainer(optimizer, model.network, **options)
trainer.set_training_model(model)
print(json.dumps(linear.losses_of(trainer, batches)))
