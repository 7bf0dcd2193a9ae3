"""Write a model's checkpoint, or restore one that was written elsewhere; print the weights' digests and predictions."""

import hashlib
import importlib
import json
import sys

backend, given = sys.argv[1], json.load(sys.stdin)
mlp = importlib.import_module(f"mlpug.{backend}")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from mlpug_keras.components import component_state  # noqa: E402

from mlpug import checkpoints  # noqa: E402
from mlpug.logs import Logs  # noqa: E402
from mlpug.model_checkpoint import model_checkpoint_state  # noqa: E402


class Scale(keras.layers.Layer):
    """A weight that nobody named."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.factor


class Captioner(keras.Model):
    """Images and words to scores."""

    def __init__(self):
        super().__init__()
        self.images = keras.Sequential(
            [
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Flatten(),
            ]
        )
        self.words = [keras.layers.Embedding(7, 3), keras.layers.LSTM(5), Scale()]
        self._zone = keras.layers.MultiHeadAttention(2, 2)
        inputs = keras.Input((69,))
        self.head = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(4, activation="tanh")(inputs)))

    def call(self, inputs):
        images, words = inputs
        images = images + self._zone(images[..., 0], images[..., 0])[..., None]
        for layer in self.words:
            words = layer(words)
        return self.head(keras.ops.concatenate([self.images(images), words], axis=1))


random = np.random.default_rng(0)
inputs = random.normal(size=(3, 6, 6, 1)).astype("float32"), random.integers(0, 7, size=(3, 4)).astype("int32")

for _ in range(len(backend)):  # so that Keras's automatic names differ
    keras.layers.Dense(1), keras.layers.LSTM(1), keras.Variable([1.0])


def described(model):
    digests = {
        path: hashlib.sha256(array.tobytes()).hexdigest() for path, array in sorted(component_state(model).items())
    }
    return {"digests": digests, "predictions": np.asarray(model(inputs)).tolist()}


def save(path):
    model = Captioner()
    model(inputs)
    for weight in model.weights:
        weight.assign(np.abs(np.random.default_rng(len(backend)).normal(size=weight.shape, scale=0.3)))
    state = model_checkpoint_state("keras", {"captioner": component_state(model)}, {"sizes": (4, 5)}, Logs(), 12, 1)
    checkpoints.save(path, state)
    return described(model)


def restore(path):
    model = Captioner()
    model(inputs)
    mlp.load_model_checkpoint(path).restore(captioner=model)
    return described(model)


if given["task"] == "save":
    print(json.dumps(save(f"{given['directory']}/{backend}.safetensors")))
else:
    print(json.dumps({name: restore(f"{given['directory']}/{name}.safetensors") for name in ("tensorflow", "jax")}))
