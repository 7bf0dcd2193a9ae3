"""A PyDataset that draws from global random numbers in TensorFlow's thread, while others draw from them or it can't."""

import random
import warnings

import keras
import numpy as np
import pytest
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

DRAWS = {
    "numpy": lambda _: np.random.rand(),
    "python": lambda _: random.random(),
    "its own": lambda dataset: dataset.own.random(),
    "nothing": lambda _: 0.0,
}
THREAD = "draws from the global random numbers of {} in a thread of TensorFlow's, some batches ahead, and {}"
SEED, OTHERS = r"TrainingManager\(seed=...\) can't give", "something else, such as a callback, draws"


class Noisy(keras.utils.PyDataset):
    def __init__(self, kind):
        super().__init__()
        self.draw, self.own = DRAWS[kind], np.random.default_rng(1)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = np.full((2, 2), index + self.draw(self), "float32")
        return x, x[:, :1]


class DrawsToo(Callback):
    def __init__(self, kind):
        self.draw = DRAWS[kind]

    def on_batch_training_completed(self, batch, logs):
        self.draw(self)


class Sees(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(float(np.asarray(batch[0])[0, 0]))


def train(backend, kind, *callbacks, seed=None, resume_from=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model, shuffle=False)
    TrainingManager(trainer, Noisy(kind), num_epochs=2, callbacks=callbacks, seed=seed).start_training(resume_from)


@pytest.mark.parametrize(
    ("kind", "others", "seed", "why"),
    [
        ("numpy", "nothing", 3, SEED),
        ("python", "nothing", 3, SEED),
        ("numpy", "numpy", None, OTHERS),
        ("python", "python", None, OTHERS),
    ],
)
def test_what_nobody_could_draw_again_is_told_once(backend, tmp_path, kind, others, seed, why):
    library = {"numpy": "numpy", "python": "Python"}[kind]
    with pytest.warns(MlpugWarning, match=THREAD.format(library, why)) as told:
        train(backend, kind, DrawsToo(others), Keeper(tmp_path), seed=seed)
    assert len([each for each in told if each.category is MlpugWarning]) == 1


@pytest.mark.parametrize(
    ("kind", "others", "seed"),
    [
        ("numpy", "nothing", None),
        ("python", "numpy", None),
        ("nothing", "numpy", 3),
        ("its own", "numpy", None),
        ("its own", "numpy", 3),
    ],
)
def test_what_is_drawn_again_exactly_isnt_told(backend, tmp_path, kind, others, seed):
    whole, keeper = Sees(), Keeper(tmp_path)
    train(backend, kind, DrawsToo(others), whole, keeper, seed=seed)
    resumed = Sees()
    train(backend, kind, DrawsToo(others), resumed, seed=seed, resume_from=keeper.saved[1][0])
    assert resumed.seen == whole.seen[keeper.saved[1][1] :]


def test_where_nothing_is_saved_nothing_is_told(backend):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(backend, "numpy", DrawsToo("numpy"), seed=3)
    assert [each for each in told if each.category is MlpugWarning] == []
