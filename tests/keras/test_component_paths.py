"""A weight's path in a checkpoint: where it is in the model, whatever Keras calls it."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from mlpug_keras.components import component_state, component_variables, load_component_state

from mlpug.errors import StateError

RANDOM = np.random.default_rng(0)


def make_classifier():
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2)])


class Custom(keras.layers.Layer):
    """Weights of its own, with names and without, by attributes and without."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(2,), name="named_scale")
        self._offset = self.add_weight(shape=(3,))
        self.parts = [self.add_weight(shape=(4,)), self.add_weight(shape=(5,))]
        self.add_weight(shape=(6,), trainable=False)
        self.one = self.add_weight(shape=(7,), name="same")
        self.two = self.add_weight(shape=(8,), name="same")
        self.table = self.add_weight(shape=(9,), name=f"{self.name}_table")

    def call(self, inputs):
        return inputs


class Containers(keras.Model):
    """Layers in every kind of container."""

    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(1), keras.layers.Dense(2), keras.layers.LayerNormalization()]
        self.nested = [[keras.layers.Dense(3)], (keras.layers.Dense(4), [keras.layers.Dense(5)])]
        self.heads = {"b": keras.layers.Dense(6), "a": keras.layers.Dense(7), 3: [keras.layers.Dense(8)]}
        self.shared = self.blocks[0]
        self._private = keras.layers.Dense(9)
        self._zone = [keras.layers.Dense(10)]
        self.note = {"text": "no layer", "numbers": [1, 2]}

    def build(self, shape):
        for layer in self._flatten_layers(include_self=False):
            layer.build((None, 1))

    def call(self, inputs):
        return inputs


class Network(keras.Model):
    """Models in a model; two different ones of one class."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Conv2D(3, 3), keras.layers.Flatten()])
        inputs = keras.Input((12,))
        shared = keras.layers.Dense(12)
        hidden = shared(shared(inputs))
        self.decoder = keras.Model(inputs, [keras.layers.Dense(2)(hidden), keras.layers.Dense(3)(hidden)])
        self.embedding = keras.layers.Embedding(5, 2)
        self.rnn = keras.layers.Bidirectional(keras.layers.LSTM(2))
        self.stack = keras.layers.RNN([keras.layers.GRUCell(2), keras.layers.LSTMCell(2)])

    def call(self, inputs):
        images, words = inputs
        embedded = self.embedding(words)
        return self.decoder(self.encoder(images)), self.rnn(embedded), self.stack(embedded)


def make_network():
    network = Network()
    network((np.zeros((2, 6, 6, 1), "float32"), np.zeros((2, 4), "int32")))
    return network


def built(layer):
    layer.build((None, 1))
    return layer


LSTM = ["kernel", "recurrent_kernel", "bias"]
CASES = {
    "sequential": (
        make_classifier,
        [
            *("dense.kernel", "dense.bias"),
            *(f"batch_normalization.{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
            *("dense_1.kernel", "dense_1.bias"),
        ],
    ),
    "weights of its own": (
        lambda: built(Custom()),
        ["named_scale", "offset", "parts.0", "parts.1", "same", "same_1", "custom_table", "variable"],
    ),
    "containers": (
        lambda: built(Containers()),
        [
            f"{layer}.{weight}"
            for layer, weights in {
                "blocks.dense": ("kernel", "bias"),
                "blocks.dense_1": ("kernel", "bias"),
                "blocks.layer_normalization": ("gamma", "beta"),
                "heads.b": ("kernel", "bias"),
                "heads.a": ("kernel", "bias"),
                "heads.3.dense": ("kernel", "bias"),
                "nested.0.dense": ("kernel", "bias"),
                "nested.1.dense": ("kernel", "bias"),
                "nested.1.1.dense": ("kernel", "bias"),
                "private": ("kernel", "bias"),
                "zone.dense": ("kernel", "bias"),
            }.items()
            for weight in weights
        ],
    ),
    "nested models": (
        make_network,
        [
            *(f"decoder.dense{number}.{name}" for number in ("", "_1", "_2") for name in ("kernel", "bias")),
            *("embedding.embeddings",),
            *(f"encoder.conv2d{number}.{name}" for number in ("", "_1") for name in ("kernel", "bias")),
            *(f"rnn.{direction}_layer.cell.{name}" for direction in ("backward", "forward") for name in LSTM),
            *(f"stack.cell.cells.{cell}_cell.{name}" for cell in ("gru", "lstm") for name in LSTM),
        ],
    ),
}


@pytest.mark.parametrize(("make", "paths"), CASES.values(), ids=CASES)
def test_paths_are_where_the_weights_are(make, paths):
    first, second = make(), make()  # whose automatic names differ
    assert {weight.path for weight in first.weights}.isdisjoint({weight.path for weight in second.weights})
    assert sorted(component_variables(first)) == sorted(component_variables(second)) == sorted(paths)


def arrays_of(model):
    return [array.tolist() for array in model.get_weights()]


@pytest.mark.parametrize(("make", "paths"), CASES.values(), ids=CASES)
def test_every_weight_is_there_once_and_comes_back(make, paths):
    trained, fresh = make(), make()
    for weight in trained.weights:
        weight.assign(RANDOM.normal(size=weight.shape))
    variables = component_variables(trained)
    assert sorted(map(id, variables.values())) == sorted(map(id, trained.weights))
    assert arrays_of(trained) != arrays_of(fresh)
    load_component_state(fresh, component_state(trained), "model")
    assert arrays_of(trained) == arrays_of(fresh)


ANOTHER_PROCESS = """
import json, sys
import keras
for _ in range(3):  # so that Keras counts from somewhere else
    keras.layers.Dense(1), keras.layers.LSTM(2), keras.layers.Conv2D(1, 1), keras.Variable([1.0]), keras.Sequential()
sys.path.insert(0, sys.argv[1])
from test_component_paths import CASES, shapes_of
print(json.dumps({name: shapes_of(make()) for name, (make, _) in CASES.items()}))
"""


def shapes_of(model):
    return {path: list(array.shape) for path, array in component_state(model).items()}


def test_paths_are_the_same_in_another_process():
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(pathlib.Path(__file__).parent)]
    environment = os.environ | {"KERAS_BACKEND": keras.backend.backend()}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout.splitlines()[-1]) == {name: shapes_of(make()) for name, (make, _) in CASES.items()}


def test_two_layers_in_a_set_can_not_be_told_apart():
    class WithSet(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.blocks = {keras.layers.Dense(1), keras.layers.Dense(1)}

    with pytest.raises(StateError, match=r"set 'blocks' have no order.*Make it a list"):
        component_state(WithSet())
