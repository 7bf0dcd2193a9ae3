"""What mlpug says to each part of a trainer that two replicas would share, as JSON."""

import json

import numpy as np
import tensorflow as tf

import mlpug.tensorflow as mlp  # isort: skip - it sets Keras to run on TensorFlow
import keras

(CPU,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


class TrainingModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean((self.model(batch_data[0]) - batch_data[1]) ** 2)


def make_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def make_layer():
    layer = keras.layers.Dense(1)
    layer.build((None, 3))
    return layer


def make_compiled():
    model = make_model()
    model.compile("sgd", loss="mse")
    return model


def in_scope(make):
    with STRATEGY.scope():
        return make()


def trainer(model=None, optimizer=None):
    return mlp.trainers.DefaultTrainer(optimizer or keras.optimizers.SGD(0.1), model or make_model())


def manager():
    model = make_model()
    made = trainer(model)
    made.set_training_model(TrainingModel(model))
    return mlp.trainers.TrainingManager(made, [(X, Y)])


def training_model_in_scope():
    model = make_model()
    trainer(model).set_training_model(in_scope(lambda: TrainingModel(model)))


def in_scope_of_one():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        trainer()


of_all = manager()
model, compiled = make_model(), make_compiled()
layer, optimizer = in_scope(make_layer), in_scope(lambda: keras.optimizers.SGD(0.1))
CASES = {
    "scope": lambda: in_scope(lambda: trainer(model)),
    "model made in a scope": lambda: trainer(in_scope(make_model)),
    "layer made in a scope": lambda: trainer(layer),
    "optimizer made in a scope": lambda: trainer(optimizer=optimizer),
    "training model made in a scope": training_model_in_scope,
    "trained in a scope": lambda: in_scope(of_all.start_training),
    "from_keras of a model made in a scope": lambda: mlp.trainers.DefaultTrainer.from_keras(in_scope(make_compiled)),
    "from_keras in a scope": lambda: in_scope(lambda: mlp.trainers.DefaultTrainer.from_keras(compiled)),
    "a scope of one replica": in_scope_of_one,
}
refused = {}
for name, case in CASES.items():
    try:
        case()
    except ValueError as error:
        refused[name] = [type(error).__name__, str(error)]
print("RESULT", json.dumps(refused))
