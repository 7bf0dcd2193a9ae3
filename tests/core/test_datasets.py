"""The order of data: a resumed run goes on with the batch that was next, whatever the dataset is and draws from."""

import random
from collections.abc import Sequence
from itertools import count, islice

import numpy as np
import pytest
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.datasets import random_states
from mlpug.datasets.fingerprint import differences, fingerprint_of
from mlpug.errors import CheckpointMismatchError, ConfigurationError, MlpugWarning
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer

NUM_BATCHES, NUM_EPOCHS = 5, 3
RNG = np.random.default_rng


class Items(Sequence):
    """Batches by their index; counts what is loaded."""

    def __init__(self):
        self.loaded = []

    def __len__(self):
        return NUM_BATCHES

    def __getitem__(self, index):
        self.loaded.append(index)
        return np.array([float(index)])


class Shuffled:
    """Can be iterated again and again: batches in an order that is drawn, with noise that is drawn for each."""

    def __init__(self, draw=np.random):
        self.draw = draw

    def __iter__(self):
        order = list(range(NUM_BATCHES))
        self.draw.shuffle(order)
        return (np.array([number, self.draw.uniform(0, 1)]) for number in order)


class ShuffledItems(Items):
    """The same with a length, and with indices that a loop doesn't use."""

    draw, __iter__ = np.random, Shuffled.__iter__


class Endless(Shuffled):
    """Round after round, each in an order of its own."""

    def __iter__(self):
        while True:
            yield from super().__iter__()


class Drawn:
    """Draws each batch from those that are left when it is asked for, as shuffle buffers do."""

    def __init__(self, draw=random):
        self.draw = draw

    def __iter__(self):
        left = list(range(NUM_BATCHES))
        while left:
            yield np.array([float(left.pop(self.draw.randrange(len(left))))])


class Stateful:
    """Says itself where it is, by torchdata's protocol; counts what is loaded."""

    def __init__(self):
        self.random = random.Random(7)
        self.order, self.next = [], 0
        self.loaded = []

    def __iter__(self):
        if not self.order:
            self.order, self.next = self.random.sample(range(NUM_BATCHES), NUM_BATCHES), 0
        while self.next < NUM_BATCHES:
            self.next += 1
            self.loaded.append(self.order[self.next - 1])
            yield np.array([float(self.loaded[-1])])
        self.order = []

    def state_dict(self):
        return {"order": list(self.order), "next": self.next, "random": self.random.getstate()}

    def load_state_dict(self, state):
        self.order, self.next = list(state["order"]), state["next"]
        self.random.setstate(state["random"])


class Stream:
    """Has `__next__`, and no way back."""

    def __init__(self, first=0):
        self.numbers = count(first)

    def __iter__(self):
        return self

    def __next__(self):
        return np.array([float(next(self.numbers))])


def generator(first=0):
    return (np.array([float(number)]) for number in count(first))


class Recorder(Callback):
    """Writes down the batches, and draws random numbers as a model would."""

    def __init__(self, num_draws=3):
        self.batches, self.drawn = [], []
        self.num_draws = num_draws

    def on_batch_training_completed(self, batch, logs):
        self.batches.append((logs["current"]["epoch"], batch.tolist()))
        self.drawn += [(random.random(), np.random.normal()) for _ in range(self.num_draws)]

    def orders(self):
        return [[values for epoch, values in self.batches if epoch == number] for number in range(NUM_EPOCHS)]


def start_from(number):
    """What random numbers come next, as a script settles it."""
    random.seed(number)
    np.random.seed(number)


@pytest.fixture
def run(make_manager, mean_model):
    """Trains, and gives what was seen."""

    def run(
        dataset, start=1, keeper=None, resume_from=None, num_draws=3, num_epochs=NUM_EPOCHS, num_steps=1, **options
    ):
        start_from(start)
        recorder = Recorder(num_draws)
        callbacks = [recorder] if keeper is None else [recorder, keeper]
        model = LinearRegression(num_features=2)
        trainer = fake_trainer(GradientDescent(model.parameters), model, gradient_accumulation_steps=num_steps)
        trainer.set_training_model(mean_model)
        manager = make_manager(dataset, callbacks, trainer=trainer, num_epochs=num_epochs, **options)
        manager.start_training(resume_from)
        return recorder

    return run


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


def assert_resumes_anywhere(run, keeper, make, **options):
    """From each rest a run goes on as the whole one did, also where other random numbers would come next."""
    whole, plain = run(make(1), keeper=keeper, **options), run(make(1), **options)
    assert (plain.batches, plain.drawn) == (whole.batches, whole.drawn)
    assert {done for _, done in keeper.saved} == set(range(1, len(whole.batches) + 1))
    for path, done in keeper.saved:
        resumed = run(make(100 + done), 100 + done, resume_from=path, **options)
        assert (done, resumed.batches) == (done, whole.batches[done:])
        assert resumed.drawn == whole.drawn[3 * done :]


KINDS = {
    "numpy": lambda number: Shuffled(),
    "random": lambda number: Shuffled(random),
    "Generator": lambda number: Shuffled(RNG(number)),
    "RandomState": lambda number: Shuffled(np.random.RandomState(number)),
    "Random": lambda number: Shuffled(random.Random(number)),
    "sequence": lambda number: ShuffledItems(),
}
MORE_KINDS = {
    "list": lambda number: Items(),
    "stateful": lambda number: Stateful(),
    "draws from what is left": lambda number: Drawn(random.Random(number)),
}
# These draw noise that they don't keep, with which a resumed run is exact; mlpug can't know whether they keep it.
DRAWS_IN_TURN = "ignore:The training dataset draws from the global random numbers"
EACH_KIND = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
WITHOUT_AND_WITH_SEED = pytest.mark.parametrize("options", [{}, {"seed": 3}], ids=["by default", "with a seed"])


@EACH_KIND
def test_by_default_the_batches_are_those_of_a_plain_loop(run, make):
    trained = run(make(1))
    start_from(1)
    dataset, by_hand = make(1), Recorder()
    for epoch in range(NUM_EPOCHS):
        for batch in dataset:
            by_hand.on_batch_training_completed(batch, {"current": {"epoch": epoch}})
    assert (trained.batches, trained.drawn) == (by_hand.batches, by_hand.drawn)


@WITHOUT_AND_WITH_SEED
@pytest.mark.parametrize("make", (KINDS | MORE_KINDS).values(), ids=KINDS | MORE_KINDS)
@pytest.mark.filterwarnings(DRAWS_IN_TURN)
def test_a_run_resumed_after_any_batch_goes_on_with_the_next(run, keeper, make, options):
    assert_resumes_anywhere(run, keeper, make, **options)


# What these draw for a batch, from the numbers that everybody draws from, is kept for later ones: nobody knows it.
NEEDS_A_SEED = {"draws from what is left": lambda number: Drawn(), "endless": lambda number: Endless()}
WITHIN_ROUNDS = {
    "re-iterable": lambda number: Shuffled(),
    "endless, from its own generator": lambda number: Endless(RNG(number)),
}


@pytest.mark.parametrize("make", NEEDS_A_SEED.values(), ids=NEEDS_A_SEED)
@pytest.mark.filterwarnings("ignore:The training dataset ended after")
def test_what_keeps_what_it_draws_from_everybodys_numbers_goes_on_so_with_a_seed(run, keeper, make):
    assert_resumes_anywhere(run, keeper, make, num_batches_per_epoch=3, seed=3)


def test_it_warns_once_where_data_and_model_draw_in_turn_and_the_data_may_keep_what_they_drew(run, keeper):
    with pytest.warns(MlpugWarning, match=r"draws from the global random numbers of Python for each .*seed=") as warned:
        run(Drawn(), keeper=keeper)
    assert len(warned) == 1


@pytest.mark.parametrize("options", [{"num_draws": 0}, {"seed": 3}], ids=["only the data draw", "with a seed"])
def test_it_doesnt_warn_where_nobody_disturbs_what_the_data_draw(run, keeper, options):
    run(Drawn(), keeper=keeper, **options)  # a warning would be an error


def test_it_doesnt_warn_where_no_state_is_kept(run):
    run(Drawn())


@pytest.mark.filterwarnings("ignore:The training dataset ended after")
def test_a_stateful_one_goes_on_so_in_epochs_that_end_within_a_round(run, keeper):
    assert_resumes_anywhere(run, keeper, lambda number: Stateful(), num_batches_per_epoch=3)


@WITHOUT_AND_WITH_SEED
@pytest.mark.parametrize("make", WITHIN_ROUNDS.values(), ids=WITHIN_ROUNDS)
@pytest.mark.filterwarnings("ignore:The training dataset ended after", DRAWS_IN_TURN)
def test_it_goes_on_so_in_epochs_that_end_within_a_round(run, keeper, make, options):
    """With 3 batches to an epoch, and 5 to a round."""
    assert_resumes_anywhere(run, keeper, make, num_batches_per_epoch=3, **options)


@pytest.mark.parametrize("kind", [Items, Stateful])
def test_batches_that_are_done_are_not_loaded_again(run, keeper, kind):
    run(whole := kind(), keeper=keeper)
    for path, done in keeper.saved:
        run(resumed := kind(), resume_from=path)
        assert resumed.loaded == whole.loaded[done:]


@EACH_KIND
def test_with_a_seed_the_order_depends_on_it_and_the_epoch_alone(run, make):
    found = run(make(1), num_draws=1, seed=3).orders()
    assert run(make(2), start=2, num_draws=4, num_epochs=NUM_EPOCHS + 1, seed=3).orders() == found
    assert found[0] != found[1] != found[2] != found[0]
    other = run(make(1), num_draws=1, seed=4).orders()
    assert all(one != another for one, another in zip(found, other, strict=True))


@EACH_KIND
def test_with_a_seed_the_dataset_takes_nothing_from_everybody_elses_random_numbers(run, make):
    start_from(1)
    undisturbed = [(random.random(), np.random.normal()) for _ in range(3 * NUM_BATCHES * NUM_EPOCHS)]
    assert run(make(1), seed=3).drawn == undisturbed


def test_the_random_state_is_that_of_the_moment_also_after_it_was_restored():
    np.random.seed(0)
    np.random.normal()  # numpy computes two at once, and keeps the second
    before = random_states.capture()
    expected = np.random.normal()
    random_states.capture()
    random_states.restore(before)
    random_states.restore(random_states.capture())
    assert np.random.normal() == expected


@pytest.mark.parametrize(
    ("made_with", "other", "message"),
    [
        (RNG(1), Shuffled, "has 0 random generators of its own, and had 1"),
        (RNG(1), lambda: Shuffled(random.Random(1)), "Random is of another kind"),
        (RNG(1), lambda: Shuffled(np.random.RandomState(1)), "RandomState is of another kind"),
        (random.Random(1), lambda: Shuffled(RNG(1)), "Generator is of another kind"),
        (np.random.RandomState(1), lambda: Shuffled(RNG(1)), "Generator is of another kind"),
        (np.random.RandomState(1), lambda: Shuffled(np.random.Generator(np.random.MT19937())), "is of another kind"),
        (random, Stateful, r"another kind of training dataset \(read as AnyIterable; here it is Stateful, a Stateful"),
        (random, generator, "another kind of training dataset .*here it is OneIteration, a generator"),
    ],
)
@pytest.mark.filterwarnings(DRAWS_IN_TURN)
def test_it_is_refused_to_go_on_with_another_dataset(run, keeper, made_with, other, message):
    run(Shuffled(made_with), keeper=keeper, num_epochs=2)
    for path, _ in keeper.saved[:-2]:  # at the last two all is done
        with pytest.raises(CheckpointMismatchError, match=message):
            run(other(), resume_from=path, num_epochs=2)


@pytest.mark.parametrize("make", [Stream, generator])
def test_what_cant_be_read_again_warns_where_states_are_kept_and_goes_on(run, make_manager, keeper, make):
    make_manager(make(), [keeper], num_batches_per_epoch=4)  # no warning yet: an error would show it
    options = {"num_batches_per_epoch": 4, "num_epochs": 2}
    with pytest.warns(MlpugWarning, match="a (Stream|generator), which can't be read again from its start") as warned:
        whole = run(make(), keeper=keeper, **options)
    assert (len(warned), whole.batches) == (1, [(number // 4, [float(number)]) for number in range(8)])
    for path, done in keeper.saved:  # here no state is kept: a warning would be an error
        resumed = run(make(50), resume_from=path, **options)
        assert resumed.batches == [(number // 4, [50.0 + number - done]) for number in range(done, 8)]


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_a_seed_that_is_none_is_refused_when_the_manager_is_made(make_manager, seed):
    with pytest.raises(ConfigurationError, match="seed must be a whole number of at least 0"):
        make_manager(Items(), [], seed=seed)


# Batches that are made of several of the dataset's.


def together(batches, num_steps):
    """What an epoch's batches make, so many of them together."""
    firsts = range(0, len(batches), num_steps)
    return [[number for batch in batches[first : first + num_steps] for number in batch] for first in firsts]


@WITHOUT_AND_WITH_SEED
@pytest.mark.parametrize("num_steps", [2, NUM_BATCHES, NUM_BATCHES + 1])
@pytest.mark.parametrize("make", (KINDS | MORE_KINDS).values(), ids=KINDS | MORE_KINDS)
@pytest.mark.filterwarnings(DRAWS_IN_TURN)
def test_a_run_on_several_batches_together_goes_on_with_the_next_ones(run, keeper, make, num_steps, options):
    assert_resumes_anywhere(run, keeper, make, num_steps=num_steps, **options)


@pytest.mark.parametrize("make", NEEDS_A_SEED.values(), ids=NEEDS_A_SEED)
@pytest.mark.filterwarnings("ignore:The training dataset ended after")
def test_several_together_go_on_so_with_a_seed(run, keeper, make):
    assert_resumes_anywhere(run, keeper, make, num_batches_per_epoch=2, num_steps=2, seed=3)


@WITHOUT_AND_WITH_SEED
@pytest.mark.parametrize("num_batches", [1, 2, 3])
@pytest.mark.parametrize("make", [*WITHIN_ROUNDS.values(), lambda number: Stateful()], ids=[*WITHIN_ROUNDS, "stateful"])
@pytest.mark.filterwarnings("ignore:The training dataset ended after", DRAWS_IN_TURN)
def test_several_together_go_on_so_in_epochs_that_end_within_a_round(run, keeper, make, num_batches, options):
    """With 2, 4 or 6 of the dataset's batches to an epoch, and 5 to a round."""
    assert_resumes_anywhere(run, keeper, make, num_batches_per_epoch=num_batches, num_steps=2, **options)


@EACH_KIND
def test_by_default_several_together_are_those_of_a_plain_loop(run, make):
    trained = run(make(1), num_steps=2)
    start_from(1)
    dataset, by_hand = make(1), Recorder()
    for epoch in range(NUM_EPOCHS):
        batches = iter(dataset)
        while pair := list(islice(batches, 2)):
            by_hand.on_batch_training_completed(np.concatenate(pair), {"current": {"epoch": epoch}})
    assert (trained.batches, trained.drawn) == (by_hand.batches, by_hand.drawn)


@EACH_KIND
@pytest.mark.parametrize("num_steps", [2, NUM_BATCHES, NUM_BATCHES + 1])
def test_with_a_seed_the_order_is_the_same_however_many_make_one(run, make, num_steps):
    one_by_one = run(make(1), seed=3).orders()
    expected = [together(batches, num_steps) for batches in one_by_one]
    assert run(make(2), seed=3, num_steps=num_steps).orders() == expected


@pytest.mark.parametrize("kind", [Items, Stateful])
def test_batches_that_are_done_are_not_loaded_again_where_several_make_one(run, keeper, kind):
    run(whole := kind(), keeper=keeper, num_steps=2)
    assert len(whole.loaded) == NUM_EPOCHS * NUM_BATCHES
    for path, done in keeper.saved:
        epochs, batches = divmod(done, 3)  # the third batch of an epoch has the one that is left
        run(resumed := kind(), resume_from=path, num_steps=2)
        assert resumed.loaded == whole.loaded[NUM_BATCHES * epochs + 2 * batches :]


@pytest.mark.parametrize("make", [Stream, generator])
def test_several_together_of_what_cant_be_read_again_go_on_with_what_comes(run, keeper, make):
    options = {"num_batches_per_epoch": 2, "num_epochs": 2, "num_steps": 2}
    with pytest.warns(MlpugWarning, match="which can't be read again from its start"):
        whole = run(make(), keeper=keeper, **options)
    assert whole.batches == [(number // 2, [2.0 * number, 2.0 * number + 1]) for number in range(4)]
    for path, done in keeper.saved:
        resumed = run(make(50), resume_from=path, **options)
        firsts = {number: 50.0 + 2 * (number - done) for number in range(done, 4)}
        assert resumed.batches == [(number // 2, [first, first + 1]) for number, first in firsts.items()]


@pytest.mark.parametrize("number", [1, 3])
def test_it_is_refused_to_go_on_within_an_epoch_with_another_number_of_batches_together(run, keeper, number):
    options = {"num_batches_per_epoch": 2, "num_epochs": 2}  # the same in both: only what they are made of differs
    run(Endless(RNG(1)), keeper=keeper, num_steps=2, **options)
    by_done = {done: path for path, done in keeper.saved}  # the last of each: at 2, that of the end of the epoch
    with pytest.raises(CheckpointMismatchError, match="gradient_accumulation_steps was 2, and it is"):
        run(Endless(RNG(1)), resume_from=by_done[1], num_steps=number, **options)
    assert len(run(Endless(RNG(1)), resume_from=by_done[2], num_steps=number, **options).batches) == 2


class Loader(Items):
    """Like torch's: says what it is made of."""

    def __init__(self, samples=20, drop_last=False, sampler=None):
        super().__init__()
        self.dataset, self.drop_last, self.sampler = [0] * samples, drop_last, sampler


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Loader(18), r"the length of its dataset was 20, and is 18\."),
        (lambda: Loader(drop_last=True), r"drop_last was False, and is True\."),
        (lambda: Loader(sampler=[1]), r"the class of its sampler was None, and is list\."),
        (lambda: Items(), r"its class was Loader, and is Items; the class of its dataset was list, and is None"),
    ],
)
def test_other_data_of_the_same_length_is_an_error_within_an_epoch_and_told_between_two(run, keeper, other, message):
    whole = run(Loader(), keeper=keeper, num_epochs=2)
    run(Loader(), resume_from=keeper.saved[2][0], num_epochs=2)  # without a word
    with pytest.raises(CheckpointMismatchError, match=rf"{message}.* within an epoch, .* after a whole epoch it can"):
        run(other(), resume_from=keeper.saved[2][0], num_epochs=2)
    with pytest.warns(MlpugWarning, match=f"{message}.* Training goes on with the data of now") as told:
        resumed = run(other(), resume_from=keeper.saved[NUM_BATCHES][0], num_epochs=2)
    assert (len(told), resumed.batches) == (1, whole.batches[NUM_BATCHES:])


def test_a_length_that_is_known_while_it_is_iterated_only_is_not_compared():
    class Lengthy(Items):
        def __init__(self, is_iterated):
            super().__init__()
            self.is_iterated = is_iterated

        def __len__(self):
            if not self.is_iterated:
                raise RuntimeError("call iter() first")
            return 5

    one, other = fingerprint_of(Lengthy(False)), fingerprint_of(Lengthy(True))
    assert (one, differences(one, other), differences(other, one)) == ({"its class": "Lengthy"}, [], [])


def test_nothing_is_loaded_or_drawn_to_know_what_data_is_like():
    data, before = Loader(), random_states.capture()
    assert fingerprint_of(data)["the length of its dataset"] == 20
    assert (data.loaded, random_states.changed(before, random_states.capture())) == ([], set())
