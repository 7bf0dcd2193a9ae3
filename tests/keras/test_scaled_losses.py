"""A loss that an optimizer scales, by one number or dynamically, trains as it does without the scale."""

import keras
import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, losses_by_name, make_batches

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

RATE, NUM_EPOCHS = 0.05, 2
TARGETS = {"first": 1.0, "second": -2.0}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # scales are powers of two: nothing but the order of sums differs


def dynamic():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=64.0)


def static(scale):
    return keras.optimizers.SGD(RATE, loss_scale_factor=scale)


OPTIMIZERS = {
    "none": (lambda: static(None), lambda: static(None)),
    "the same": (lambda: static(1024.0), lambda: static(1024.0)),
    "different": (lambda: static(1024.0), lambda: static(4.0)),
    "one": (lambda: static(1024.0), lambda: static(None)),
    "static and dynamic": (lambda: static(1024.0), dynamic),
    "none and dynamic": (lambda: static(None), dynamic),
}
OPTIONS = [{}, {"batch_chunk_size": 2}, {"gradient_clip_norm": 0.5}, {"gradient_clip_value": 0.1}]


class TwoRegressions(keras.Model):
    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.first, self.second = (
            keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(1, kernel_initializer="zeros")])
            for _ in TARGETS
        )

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = (keras.ops.cast(part, "float32") for part in batch_data)
        parts = zip((self.first, self.second), TARGETS.values(), strict=True)
        losses = [keras.ops.mean(keras.ops.square(part(x)[:, 0] - scale * y)) for part, scale in parts]
        return self.returns(*losses), keras.ops.shape(y)[0]


class Norms(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(logs["current"]["training"]["batch"].get("gradient_norm"))


def by_formula(options):
    """The weights of both, in double precision."""
    weights = {name: np.zeros(NUM_FEATURES + 1) for name in TARGETS}
    norms = []
    for x, y in make_batches((4, 3)) * NUM_EPOCHS:
        features = np.column_stack([x, np.ones(len(x))])
        norms.append({})
        for name, scale in TARGETS.items():
            gradient = 2 * features.T @ (features @ weights[name] - scale * y) / len(y)
            norms[-1][name] = np.linalg.norm(gradient)
            if "gradient_clip_norm" in options:
                gradient = gradient * min(1.0, options["gradient_clip_norm"] / norms[-1][name])
            if "gradient_clip_value" in options:
                gradient = gradient.clip(-options["gradient_clip_value"], options["gradient_clip_value"])
            weights[name] = weights[name] - RATE * gradient
    return weights, norms


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("returns", [lambda *losses: sum(losses), losses_by_name], ids=["shared", "own"])
@pytest.mark.parametrize("scales", OPTIMIZERS)
def test_a_scale_of_the_loss_changes_nothing(backend, scales, returns, options):
    model, norms = TwoRegressions(returns), Norms()
    parts = {"first": model.first, "second": model.second}
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers={name: make() for name, make in zip(parts, OPTIMIZERS[scales], strict=True)},
        model_components=parts,
        trainable_variables=parts,
        eager_mode=backend.eager_mode,
        **options,
    )
    manager = TrainingManager(trainer, make_batches((4, 3)), num_epochs=NUM_EPOCHS, callbacks=[norms])
    trainer.set_training_model(model)
    manager.start_training()
    weights, expected_norms = by_formula(options)
    for name, part in parts.items():
        np.testing.assert_allclose(np.append(*part.get_weights()), weights[name], **SINGLE)
        if "gradient_clip_norm" in options or "gradient_clip_value" in options:
            seen = [each[name] for each in norms.seen]
            np.testing.assert_allclose(seen, [each[name] for each in expected_norms], **SINGLE)
