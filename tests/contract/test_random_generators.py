"""Random generators of the data's and the model's own, wherever they sit: a resumed run goes on with their numbers."""

import numpy as np
import pytest
from contract.generator_places import KINDS, NUM_BATCHES, dataset_of_all
from contract.keeper import Keeper

from mlpug.trainers import TrainingManager

NUM_EPOCHS = 3


def train(backend, data, keeper=None, resume_from=None, spy=None, **options):
    backend = type(backend)()
    trainer = backend.trainer()
    callbacks = [] if keeper is None else [keeper]
    manager = TrainingManager(trainer, data, num_epochs=NUM_EPOCHS, callbacks=callbacks, **options)
    trainer.set_training_model(backend.training_model(spy))
    manager.start_training(resume_from=resume_from)
    return backend.weights()


def assert_same(weights, expected):
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight)


@pytest.mark.parametrize("options", [{}, {"seed": 3}], ids=["", "with a seed"])
@pytest.mark.parametrize("name", [*KINDS, "of the backend"])
def test_a_resumed_run_goes_on_with_the_numbers_of_the_data(backend, tmp_path, name, options):
    kind = backend.random_generator if name == "of the backend" else KINDS[name]
    keeper = Keeper(tmp_path)
    expected = train(backend, dataset_of_all(kind, 1), keeper, **options)
    for number in (NUM_BATCHES, NUM_BATCHES + 1):  # between two epochs, and within the second
        path, _ = keeper.saved[number]
        assert_same(train(backend, dataset_of_all(kind, 50), resume_from=path, **options), expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_goes_on_with_the_numbers_of_the_model(backend, tmp_path, name):
    make, draw = KINDS[name]

    def spied(number):
        own, drawn = make(number), []
        return drawn, lambda *_: drawn.append(float(draw(own)))

    data = [(np.ones((4, 6)), np.ones(4))] * NUM_BATCHES
    keeper = Keeper(tmp_path)
    expected, spy = spied(1)
    train(backend, data, keeper, spy=spy)
    if not backend.calls_python_at_each_batch:
        assert len(expected) <= 2  # while the step is compiled, and never again
        return
    assert len(set(expected)) == NUM_BATCHES * NUM_EPOCHS
    for path, done in keeper.saved[:: NUM_BATCHES + 1]:
        drawn, spy = spied(50)
        train(backend, data, resume_from=path, spy=spy)
        assert drawn == expected[done:]
