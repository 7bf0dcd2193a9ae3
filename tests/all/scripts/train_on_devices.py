"""``fit`` over two devices of JAX, alone and with as_native; what both gave, as JSON."""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import numpy as np

import mlpug.jax as mlp  # isort: skip - it sets Keras to run on JAX
import jax
import keras

(FOLDER,) = sys.argv[1:]
X = np.random.RandomState(0).rand(24, 3).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), loss="mse", metrics=["mae"])
    return model


def run(*callbacks):
    model = make()
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks)).history
    return {"history": history, "weights": [weight.tolist() for weight in model.get_weights()]}, model


class Keep(mlp.callbacks.Callback):
    def __init__(self):
        self.losses = []

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))


keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
alone, _ = run()
manager = mlp.callbacks.CheckpointManager(FOLDER, "run", batch_level=False, metric_to_monitor="training.epoch.loss")
beside, trained = run(mlp.callbacks.as_native(Keep(), manager))
keras.distribution.set_distribution(None)
one = make()
mlp.load_model_checkpoint(f"{FOLDER}/run-latest-model-checkpoint.safetensors").restore(model=one)
try:
    mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), trained)
    refused = ["", ""]
except ValueError as error:
    refused = [type(error).__name__, str(error)]
result = {
    "alone": alone,
    "beside": beside,
    "refused": refused,
    "saved_is_trained": all(map(np.array_equal, one.get_weights(), trained.get_weights())),
    "num_devices": len(jax.devices()),
}
print("RESULT", json.dumps(result))
