"""Other settings of Keras's optimizers in the script of a resumed run, in both ways to train."""

import warnings

import keras
import numpy as np
import pytest
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

STOPPED, NUM_BATCHES = 2, 4
OLD = {"learning_rate": 0.125, "momentum": 0.875, "weight_decay": 0.0}
WAYS = ["DefaultTrainer", "from_keras"]
BATCHES = [
    (np.linspace(-1, 1, 8, dtype="float32").reshape(4, 2) * (1 + number), np.ones((4, 1), "float32"))
    for number in range(NUM_BATCHES)
]


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings=None, inference_mode=None):
        x, y = batch_data
        return keras.ops.mean((self.model(x) - y) ** 2)


class Rates(Callback):
    def __init__(self, stop):
        self.rates, self.stop = [], stop

    def on_batch_training_completed(self, batch, logs):
        self.rates.append(logs.at("training_params.batch.lr"))
        if self.manager.global_iter == self.stop:
            self.manager.stop_training()


def new_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.full((2, 1), 0.5), np.full(1, 0.25)])
    return model


def train(mlp, way, settings, folder=None, scales=False, stop=None, **resuming):
    model, optimizer = new_model(), keras.optimizers.SGD(**settings)
    if scales:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    if way == "from_keras":
        model.compile(optimizer, "mse", auto_scale_loss=False)
        trainer = mlp.trainers.DefaultTrainer.from_keras(model)
    else:
        trainer = mlp.trainers.DefaultTrainer(optimizer, model)
    keeper, rates = [] if folder is None else [Keeper(folder)], Rates(stop)
    manager = TrainingManager(trainer, BATCHES, callbacks=[rates, *keeper])
    if way == "DefaultTrainer":
        trainer.set_training_model(TrainModel(model))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training(**resuming)
    told = [str(each.message) for each in caught if issubclass(each.category, MlpugWarning)]
    path = {number: path for path, number in keeper[0].saved}[stop or STOPPED] if keeper else None
    return np.append(*model.get_weights()), rates.rates, told, path


def by_hand(settings, then):
    """Weights of SGD with decoupled weight decay, which changes its settings in the middle."""
    weights, velocity = np.array([0.5, 0.5, 0.25]), np.zeros(3)
    for number, (x, y) in enumerate(BATCHES):
        rate, momentum, decay = ({**settings, **then} if number >= STOPPED else settings).values()
        features = np.hstack([x, np.ones((4, 1))]).astype(float)
        gradient = 2 * features.T @ (features @ weights - y[:, 0]) / 4
        weights = weights - rate * decay * weights
        velocity = momentum * velocity - rate * gradient
        weights = weights + velocity
    return weights


@pytest.mark.parametrize("source", ["checkpoint", "script"])
@pytest.mark.parametrize("scales", [False, True], ids=["", "loss scaling"])
@pytest.mark.parametrize("way", WAYS)
def test_settings_are_the_checkpoints_or_the_scripts(backend, tmp_path, way, scales, source):
    changed = {"learning_rate": 0.0625, "momentum": 0.5, "weight_decay": 0.25}
    *_, path = train(backend.mlp, way, OLD, tmp_path, scales)
    _, _, told, _ = train(backend.mlp, way, OLD, None, scales, resume_from=path, resume_optimizer_settings=source)
    assert told == []
    weights, _, told, _ = train(
        backend.mlp, way, {**OLD, **changed}, None, scales, resume_from=path, resume_optimizer_settings=source
    )
    np.testing.assert_allclose(weights, by_hand(OLD, changed if source == "script" else {}), rtol=1e-5)
    (message,) = told
    for key, value in changed.items():
        used = value if source == "script" else OLD[key]
        both = f"{key} of 'optimizer' was {OLD[key]:g}, is {value:g} in this script"
        assert f"{both}, and training goes on with {used:g}" in message


@pytest.mark.parametrize("way", WAYS)
def test_a_second_resume_goes_on_with_the_settings_that_the_first_went_on_with(backend, tmp_path, way):
    """They aren't those of the script that wrote the second file."""
    new = {**OLD, "momentum": 0.5, "weight_decay": 0.25}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    *_, first = train(backend.mlp, way, OLD, tmp_path / "first", stop=1)
    *_, told, second = train(backend.mlp, way, new, tmp_path / "second", stop=STOPPED, resume_from=first)
    assert len(told) == 1
    weights, _, told, _ = train(backend.mlp, way, new, resume_from=second)
    assert told == []
    np.testing.assert_allclose(weights, by_hand(OLD, {}), rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_schedule_in_an_optimizer_is_the_scripts(backend, tmp_path, way):
    def halving(rate):
        return {**OLD, "learning_rate": keras.optimizers.schedules.ExponentialDecay(rate, 1, 0.5)}

    # What the logs say when a batch is completed is the rate of the next one.
    expected = [0.5**step for step in range(STOPPED + 1, NUM_BATCHES + 1)]
    *_, path = train(backend.mlp, way, halving(0.125), tmp_path)
    for source in ("checkpoint", "script"):
        resuming = {"resume_from": path, "resume_optimizer_settings": source}
        _, rates, told, _ = train(backend.mlp, way, halving(0.125), **resuming)
        assert told == []
        assert rates == [0.125 * each for each in expected]
        _, rates, (message,), _ = train(backend.mlp, way, halving(0.5), **resuming)
        assert rates == [0.5 * each for each in expected]
        assert "initial_learning_rate=0.125" in message.split(" in this script")[0]
        assert "goes on with ExponentialDecay(initial_learning_rate=0.5" in message


class Mute(keras.optimizers.SGD):
    def get_config(self):
        raise NotImplementedError


@pytest.mark.parametrize("way", WAYS)
def test_an_optimizer_that_cannot_say_how_it_was_made_trains_and_goes_on(backend, tmp_path, way, monkeypatch):
    monkeypatch.setattr(keras.optimizers, "SGD", Mute)
    weights, _, told, path = train(backend.mlp, way, OLD, tmp_path)
    assert told == []
    np.testing.assert_array_equal(train(backend.mlp, way, OLD, resume_from=path)[0], weights)
