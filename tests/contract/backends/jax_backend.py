"""Keras on JAX in the contract suite."""

import mlpug.jax as mlp  # isort: skip - it says on what Keras runs

import jax
import jax.numpy as jnp
import numpy as np
from contract.backends.keras_backend import LEARNING_RATE, KerasBackend, new_model, weights_of


class JaxBackend(KerasBackend):
    mlp = mlp
    array_type = type(jnp.zeros(()))
    ways_to_host = ("__array__", "__float__", "__int__", "__bool__", "__index__", "item", "tolist")

    def transfers_to_read_losses(self, count):
        # One after the other, after all of them were asked for: stacking them would compile for each count.
        return count if self.eager_mode else 2 * count

    def train_by_hand(self, batches, num_epochs):
        model, losses = new_model(), []

        @jax.jit
        def step(weights, x, y):
            def loss_of(weights):
                first, first_bias, second, second_bias = weights
                predictions = (jax.nn.relu(x @ first + first_bias) @ second + second_bias)[:, 0]
                return jnp.mean((predictions - y) ** 2)

            loss, gradients = jax.value_and_grad(loss_of)(weights)
            return loss, [
                weight - LEARNING_RATE * gradient for weight, gradient in zip(weights, gradients, strict=True)
            ]

        weights = model.get_weights()
        for _ in range(num_epochs):
            for x, y in batches:
                loss, weights = step(weights, x.astype(np.float32), y.astype(np.float32))
                losses.append(float(loss))
        model.set_weights(weights)
        return weights_of(model), losses


class EagerJaxBackend(JaxBackend):
    eager_mode = True
    calls_python_at_each_batch = True
