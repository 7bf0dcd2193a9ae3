"""One of two processes of JAX: what mlpug says to them, and what as_native hears in ``fit``, as JSON."""

import importlib
import json
import os
import sys
import warnings

import jax
import numpy as np

FOLDER, PORT, RANK = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{PORT}", 2, int(RANK))

mlp = importlib.import_module("mlpug.jax")  # when the processes know each other
keras = importlib.import_module("keras")
X = np.random.RandomState(0).rand(16, 3).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Keep(mlp.callbacks.Callback):
    def __init__(self):
        self.losses = []

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))


def make():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


try:
    mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), make())
    refused = ""
except ValueError as error:
    refused = str(error)
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
model, keep = make(), Keep()
model.compile("sgd", loss="mse")
manager = mlp.callbacks.CheckpointManager(FOLDER, "run", metric_to_monitor=None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[mlp.callbacks.as_native(keep, manager)])
warned = [str(each.message) for each in caught if each.category.__name__ == "MlpugWarning"]
print("RESULT", json.dumps({"refused": refused, "losses": keep.losses, "warned": warned}), flush=True)
os._exit(0)  # the processes of JAX wait for each other at an ordinary end
