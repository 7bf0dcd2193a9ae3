"""Random generators that a dataset has of its own: found wherever they sit, kept by their place."""

import random
import types

import numpy as np
import pytest
from contract.generator_places import KINDS, PLACES, dataset
from contract.keeper import Keeper

from mlpug.datasets.generator_kinds import is_generator
from mlpug.datasets.generators import OwnGenerators
from mlpug.datasets.reachable import MAX_OBJECTS, reachable
from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer

RNG = np.random.default_rng
MAKE, DRAW = KINDS["Generator"]


def paths(root):
    return ["".join(steps) for steps in reachable(root, is_generator).found]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_each_kind_is_found_in_each_place_and_given_back(place, kind):
    first, other = dataset(place, kind, 1), dataset(place, kind, 2)
    first.draw()
    states = OwnGenerators(first).states()
    expected = [first.draw() for _ in range(3)]
    OwnGenerators(other).set_states(states)
    assert [other.draw() for _ in range(3)] == expected


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_seed_settles_what_is_drawn_wherever_it_sits(kind):
    def drawn(place, number, seed, epoch):
        data = dataset(place, kind, number)
        OwnGenerators(data).seed(seed, epoch)
        return [data.draw() for _ in range(3)]

    for place in PLACES:
        assert drawn(place, 1, 5, 0) == drawn(place, 2, 5, 0)
        assert drawn(place, 1, 5, 0) != drawn(place, 1, 5, 1) != drawn(place, 1, 6, 1)


def test_one_that_is_shared_is_kept_once():
    own = RNG(1)
    shared = types.SimpleNamespace(first=own, second=[own], bits=own.bit_generator)
    assert list(OwnGenerators(shared).states()) == ["first"]
    assert list(OwnGenerators(shared, shared).states()) == ["[0].first"]


def test_those_that_all_share_are_not_the_datasets_own():
    shared = types.SimpleNamespace(draw=random.random, numpy=np.random.mtrand._rand, python=random._inst)
    assert OwnGenerators(shared).states() == {}


@pytest.mark.parametrize(
    "root",
    [
        types.SimpleNamespace(module=types.ModuleType("a"), array=np.array([RNG(1)], object)),
        types.SimpleNamespace(two={RNG(1), RNG(2)}),
        types.SimpleNamespace(iterator=(own for own in [RNG(1)])),
    ],
    ids=["modules and arrays", "a set of several", "what a generator is at"],
)
def test_there_it_isnt_looked_for(root):
    assert paths(root) == []


def test_what_holds_itself_is_looked_through_once():
    one, other = types.SimpleNamespace(), types.SimpleNamespace(own=RNG(1))
    one.other, other.one = other, one
    assert paths(one) == [".other.own"]


def test_the_nearest_come_first_and_data_of_any_size_is_no_hindrance():
    samples = [(f"{number}.png", {"label": [number]}) for number in range(2 * MAX_OBJECTS)]
    data = types.SimpleNamespace(samples=samples, far=[[RNG(1)]], near=RNG(2))
    assert paths(data) == [".near", ".far[0][0]"]


def test_where_there_is_more_than_is_looked_at_it_says_so_once():
    data = types.SimpleNamespace(many=[types.SimpleNamespace() for _ in range(MAX_OBJECTS)], own=RNG(1))
    own = OwnGenerators(data)
    with pytest.warns(MlpugWarning, match=r"is made of more than 20,000 objects, .* Keep generators in attributes"):
        assert list(own.states()) == ["own"]
    assert list(own.states()) == ["own"]  # a warning would be an error


def test_one_that_is_made_while_training_is_left_out_and_named():
    data = types.SimpleNamespace(own=RNG(1))
    own = OwnGenerators(data)
    own.states()
    data.late = RNG(2)
    with pytest.warns(MlpugWarning, match=r"made random generators .* since training started: 'late'\. .*__init__"):
        states = own.states()
    assert list(states) == list(own.states()) == ["own"]
    OwnGenerators(types.SimpleNamespace(own=RNG(3))).set_states(states)
    own.set_states(states)  # where the late one is there by now


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"second": RNG(1)}, r"has 1 random generators .* and had 1 .*: 'first', 'second' is in one of them only"),
        ({"first": RNG(1), "more": RNG(1)}, r"has 2 .* and had 1 .*: 'more' is in one"),
        ({"first": random.Random(1)}, r"Random is of another kind .* at 'first'"),
        ({"first": np.random.PCG64DXSM()}, r"PCG64DXSM is of another kind .* at 'first'"),
    ],
)
def test_states_of_others_are_refused(other, message):
    states = OwnGenerators(types.SimpleNamespace(first=RNG(1))).states()
    with pytest.raises(CheckpointMismatchError, match=message):
        OwnGenerators(types.SimpleNamespace(**other)).set_states(states)


def test_what_is_replaced_while_training_is_found_where_it_is_now():
    data = types.SimpleNamespace(inner=types.SimpleNamespace(own=RNG(1)))
    own = OwnGenerators(data)
    own.states()
    data.inner = types.SimpleNamespace(own=RNG(2))
    expected = OwnGenerators(data).states()
    np.testing.assert_equal(own.states_where_found(), expected)
    data.inner = types.SimpleNamespace()
    assert own.states_where_found() == {}


def test_a_list_of_states_as_older_files_have_it_is_of_the_nearest():
    def data(number):
        inner = types.SimpleNamespace(sampler=types.SimpleNamespace(own=RNG(number)), transform=[RNG(number + 1)])
        return types.SimpleNamespace(dataset=inner, own=RNG(number + 2))

    first, other = data(1), data(10)
    own = OwnGenerators(first).states()
    OwnGenerators(other).set_states([own["own"], own["dataset.sampler.own"]])
    assert other.own.normal() == first.own.normal()
    assert other.dataset.sampler.own.normal() == first.dataset.sampler.own.normal()
    assert other.dataset.transform[0].normal() == RNG(11).normal()
    with pytest.raises(CheckpointMismatchError, match="'the number 3' is in one of them only"):
        OwnGenerators(other).set_states([*own.values(), own["own"]])


def test_a_model_that_makes_one_while_training_is_told_of(make_manager, mean_model, tmp_path):
    class Lazy:
        gradients = mean_model.gradients

        def __call__(self, batch, evaluate_settings, inference_mode):
            self.own = getattr(self, "own", None) or RNG(1)
            self.own.normal()
            return mean_model(batch, evaluate_settings, inference_mode)

    trainer = fake_trainer(GradientDescent(LinearRegression(2).parameters))
    trainer.set_training_model(Lazy())
    manager = make_manager([np.ones(2)] * 2, [Keeper(tmp_path)], trainer=trainer)
    with pytest.warns(MlpugWarning, match="The model has made random generators of its own .*: '(.*)own'"):
        manager.start_training()
