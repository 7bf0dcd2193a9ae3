"""Training goes on from the weights that were trained, whenever their averages stood in the model."""

import keras
import numpy as np
import pytest
from compiled_models import PortedRun, arrays
from contract.keeper import Keeper

from mlpug.trainers import TrainingManager

NUM_EPOCHS = 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def averaging(**options):
    return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.8, **options)


def overwriting():
    return averaging(ema_overwrite_frequency=3)


def scaled():
    return keras.optimizers.LossScaleOptimizer(averaging())


def net():
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)])


class TrainModel(keras.Model):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return LOSS(batch_data[1], self.net(batch_data[0]))


def swapped_on_epoch():
    return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]


def swapped_to_validate():
    return [keras.callbacks.SwapEMAWeights()]


def nothing():
    return []


def train_model(backend, optimizer, callbacks, num_epochs=NUM_EPOCHS, resume_from=None):
    model = net()
    x, y = arrays(24)
    batches = [(x[start : start + 6], y[start : start + 6]) for start in range(0, 24, 6)]
    trainer = backend.mlp.trainers.DefaultTrainer(optimizer(), model)
    manager = TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(TrainModel(model))
    manager.start_training(resume_from=resume_from)
    return model.get_weights()


def train_compiled(backend, optimizer, callbacks, num_epochs=NUM_EPOCHS, resume_from=None):
    def make():
        model = net()
        model.compile(optimizer(), LOSS)
        return model

    options = {"batch_size": 6, "validation_data": arrays(9, seed=1)}
    run = PortedRun(backend.mlp, make, lambda: arrays(24), callbacks=callbacks, num_epochs=num_epochs, **options)
    return run.start(resume_from).model.get_weights()


CASES = [
    (train_model, averaging, nothing),
    (train_model, overwriting, nothing),
    (train_model, scaled, nothing),
    (train_model, averaging, swapped_on_epoch),
    (train_compiled, averaging, nothing),
    (train_compiled, averaging, swapped_on_epoch),
    (train_compiled, averaging, swapped_to_validate),
]


@pytest.mark.parametrize(("train", "optimizer", "swaps"), CASES)
def test_a_run_goes_on_from_the_trained_weights(backend, tmp_path, train, optimizer, swaps):
    keeper = Keeper(tmp_path)
    whole = train(backend, optimizer, [keeper, *swaps()])
    rests = [next(path for path, done in keeper.saved if done == batches) for batches in (2, 7)]
    rests.append([path for path, done in keeper.saved if done == 8][-1])  # the end of an epoch
    (tmp_path / "shorter").mkdir()
    shorter = Keeper(tmp_path / "shorter")
    train(backend, optimizer, [shorter, *swaps()], num_epochs=NUM_EPOCHS - 1)
    rests.append(shorter.saved[-1][0])  # fit has put the averages in
    for path in rests:
        resumed = train(backend, optimizer, swaps(), resume_from=path)
        for one, other in zip(resumed, whole, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:The checkpoint was made by as_native:mlpug.errors.MlpugWarning")
def test_as_native_keeps_the_trained_weights_for_a_run_that_goes_on(backend, tmp_path):
    def compiled():
        model = net()
        model.compile(averaging(), LOSS)
        return model

    saves = backend.mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None, batch_level=False)
    x, y = arrays(24)
    compiled().fit(
        x, y, batch_size=6, epochs=2, verbose=0, shuffle=False, callbacks=[backend.mlp.callbacks.as_native(saves)]
    )
    whole = compiled()
    whole.fit(x, y, batch_size=6, epochs=3, verbose=0, shuffle=False)
    path = tmp_path / "run-training-checkpoint.safetensors"
    run = PortedRun(backend.mlp, compiled, lambda: (x, y), num_epochs=3, batch_size=6, shuffle=False)
    for one, other in zip(run.start(path).model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)  # a step of from_keras is compiled another way
