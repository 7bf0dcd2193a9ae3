"""Keras on TensorFlow in the contract suite."""

import mlpug.tensorflow as mlp  # isort: skip - it says on what Keras runs

import numpy as np
import tensorflow as tf
from contract.backends.keras_backend import LEARNING_RATE, KerasBackend, new_model, weights_of


class TensorFlowBackend(KerasBackend):
    mlp = mlp
    array_type = next(kind for kind in type(tf.constant(1.0)).__mro__ if "numpy" in vars(kind))
    ways_to_host = ("numpy", "__array__", "__float__", "__int__", "__bool__", "__index__")

    def transfers_to_read_losses(self, count):
        return 1 if self.eager_mode else 2  # losses, and num_samples, which are Python numbers in eager mode

    def train_by_hand(self, batches, num_epochs):
        model, losses = new_model(), []

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((tf.squeeze(model(x, training=True), 1) - y) ** 2)
            variables = [variable.value for variable in model.trainable_variables]
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(LEARNING_RATE * gradient)
            return loss

        for _ in range(num_epochs):
            for x, y in batches:
                losses.append(float(step(x.astype(np.float32), y.astype(np.float32))))
        return weights_of(model), losses


class EagerTensorFlowBackend(TensorFlowBackend):
    eager_mode = True
    calls_python_at_each_batch = True
    random_generator = tf.random.Generator.from_seed, lambda own: own.normal(()).numpy()
