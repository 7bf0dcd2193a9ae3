"""The order of tf.data's batches: as a plain loop has it, and as it was in the run that is resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

NUM_EPOCHS = 3


def numbers(count=10):
    return tf.data.Dataset.range(count)


def within(shuffle):
    return numbers(3).interleave(lambda n: shuffle(numbers(4)).map(lambda m: 4 * n + m))


CHAINS = {
    "shuffle": lambda shuffle: shuffle(numbers()).batch(3),
    "small buffer": lambda shuffle: shuffle(numbers(), buffer_size=4).batch(2),
    "once": lambda shuffle: shuffle(numbers(), reshuffle_each_iteration=False).batch(3),
    "twice": lambda shuffle: shuffle(shuffle(numbers()).batch(2)),
    "repeat": lambda shuffle: shuffle(numbers()).repeat(2).batch(5),
    "take": lambda shuffle: shuffle(numbers()).take(7).batch(3),
    "prefetch": lambda shuffle: shuffle(numbers()).batch(3).prefetch(2),
    "interleave": lambda shuffle: (
        shuffle(numbers(6)).interleave(lambda n: numbers(2).map(lambda m: 2 * n + m)).batch(4)
    ),
    "within interleave": lambda shuffle: within(shuffle).batch(4),
    "filter": lambda shuffle: shuffle(numbers().filter(lambda n: n % 4 != 0)).batch(2),
    "concatenate": lambda shuffle: shuffle(numbers(5)).concatenate(shuffle(numbers(5))).batch(3),
    "generator": lambda shuffle: shuffle(from_generator()).batch(3),
}


def from_generator():
    return tf.data.Dataset.from_generator(lambda: iter(range(10)), output_signature=tf.TensorSpec((), tf.int64))


def shuffled(dataset, buffer_size=20, **options):
    return dataset.shuffle(buffer_size, **options)


def with_own_seeds(chain):
    return CHAINS[chain](lambda *arguments, **options: shuffled(*arguments, seed=7, **options))


def with_global_seed(chain):
    tf.random.set_seed(3)
    return CHAINS[chain](shuffled)


def without_seed(chain):
    return CHAINS[chain](shuffled)


SHUFFLES_OFTEN = ("twice", "repeat", "concatenate", "within interleave")  # in one epoch
EACH_CHAIN = pytest.mark.parametrize("chain", CHAINS)
SEEDINGS = {
    "shuffle(seed=)": (with_own_seeds, {}),
    "tf.random.set_seed": (with_global_seed, {}),
    "TrainingManager(seed=)": (without_seed, {"seed": 3}),
}


class Recorder(Callback):
    """Writes down the batches."""

    def __init__(self):
        self.batches = []

    def on_batch_training_completed(self, batch, logs):
        self.batches.append((logs["current"]["epoch"], batch.numpy().tolist()))


@pytest.fixture(autouse=True)
def no_global_seed():
    tf.random.set_seed(None)


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


@pytest.mark.parametrize("place", [1, 4], ids=["within an epoch", "between two"])
def test_another_global_seed_is_told_unless_the_order_comes_from_one_of_the_run(train_fast, keeper, place):
    def data(seed):
        tf.random.set_seed(seed)
        return numbers().shuffle(10).batch(3)

    train_fast(data(3), keeper=keeper)
    train_fast(data(3), resume_from=keeper.saved[place][0])  # without a word
    with pytest.warns(MlpugWarning, match=r"seeds of its shuffles was \[\[3, .* is \[\[4, .* Training goes on"):
        train_fast(data(4), resume_from=keeper.saved[place][0])
    keeper.saved.clear()
    whole = train_fast(data(3), keeper=keeper, seed=5)
    done = keeper.saved[place][1]
    assert train_fast(data(4), resume_from=keeper.saved[place][0], seed=5) == whole[done:]


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 1))

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean(self.dense(keras.ops.cast(batch_data[:, None], "float32")))


def run(trainer, dataset, keeper=None, resume_from=None, num_epochs=NUM_EPOCHS, **options):
    """Train, and give the batches."""
    recorder = Recorder()
    callbacks = [recorder] if keeper is None else [recorder, keeper]
    TrainingManager(trainer, dataset, num_epochs, callbacks, **options).start_training(resume_from)
    return recorder.batches


@pytest.fixture
def train(backend):
    """Trains on Keras."""

    def train(*arguments, **options):
        model = Model()
        trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.0), model.dense, eager_mode=True)
        trainer.set_training_model(model)
        return run(trainer, *arguments, **options)

    return train


@pytest.fixture
def train_fast():
    """Trains in the core's own loop: the same dataset and the same code around it, a hundred times as often."""

    def train(*arguments, **options):
        trainer = fake_trainer(GradientDescent(LinearRegression(num_features=1).parameters))
        trainer.set_training_model(Still())
        return run(trainer, *arguments, **options)

    return train


class Still:
    """A training model with nothing to learn."""

    def __init__(self):
        self.gradients = {"weight": np.zeros(1), "bias": np.zeros(())}

    def __call__(self, batch_data, evaluate_settings, inference_mode=False):
        return 0.0, len(batch_data), None


def by_hand(dataset):
    return [(epoch, batch.numpy().tolist()) for epoch in range(NUM_EPOCHS) for batch in dataset]


def orders(batches):
    return [[number for epoch, batch in batches for number in batch if epoch == one] for one in range(NUM_EPOCHS)]


@EACH_CHAIN
@pytest.mark.parametrize("make", [with_own_seeds, with_global_seed])
def test_by_default_the_batches_are_those_of_a_plain_loop(train_fast, make, chain):
    assert train_fast(make(chain)) == by_hand(make(chain))


def assert_resumes_anywhere(train, keeper, make, **options):
    whole = train(make(), keeper, **options)
    assert train(make(), **options) == whole
    assert {done for _, done in keeper.saved} == set(range(1, len(whole) + 1))
    for path, done in keeper.saved[:-2]:  # at the last two all is done
        assert (done, train(make(), resume_from=path, **options)) == (done, whole[done:])


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if chain not in SHUFFLES_OFTEN])
def test_a_run_resumed_after_any_batch_goes_on_with_the_next(train_fast, keeper, chain):
    assert_resumes_anywhere(train_fast, keeper, lambda: with_own_seeds(chain))


@EACH_CHAIN
def test_it_does_so_with_a_seed_of_the_manager(train_fast, keeper, chain):
    assert_resumes_anywhere(train_fast, keeper, lambda: without_seed(chain), seed=3)


@pytest.mark.parametrize("chain", SHUFFLES_OFTEN)
def test_several_shuffles_in_an_epoch_warn_of_later_ones_and_need_a_seed_of_the_manager(train_fast, keeper, chain):
    with pytest.warns(MlpugWarning, match=r"its later epochs in another order.*Give TrainingManager\(\.\.\., seed="):
        whole = train_fast(with_own_seeds(chain), keeper, num_epochs=1)
    for path, done in keeper.saved:
        assert train_fast(with_own_seeds(chain), resume_from=path, num_epochs=1) == whole[done:]


@pytest.mark.parametrize("chain", ["shuffle", "small buffer", "filter"])
@pytest.mark.parametrize(("make", "options"), SEEDINGS.values(), ids=SEEDINGS)
def test_it_does_so_wherever_the_seed_comes_from(train_fast, keeper, make, options, chain):
    assert_resumes_anywhere(train_fast, keeper, lambda: make(chain), **options)


@pytest.mark.parametrize("name", SEEDINGS)
def test_it_does_so_on_keras(train, keeper, name):
    make, options = SEEDINGS[name]
    assert_resumes_anywhere(train, keeper, lambda: make("small buffer"), num_epochs=2, **options)


@pytest.mark.parametrize("options", [{}, {"seed": 3}], ids=["by default", "with a seed"])
def test_an_endless_dataset_goes_on_in_epochs_that_end_within_a_round(train_fast, keeper, options):
    def make():
        return numbers().shuffle(20, seed=7).batch(4).repeat()

    assert_resumes_anywhere(train_fast, keeper, make, num_batches_per_epoch=2, **options)


def test_an_endless_dataset_without_a_seed_warns(train_fast, keeper):
    dataset = numbers().shuffle(20).batch(4).repeat()
    with pytest.warns(MlpugWarning, match=r"has its data in another order.*Give TrainingManager\(\.\.\., seed="):
        train_fast(dataset, keeper, num_batches_per_epoch=2, num_epochs=1)


def test_what_is_done_is_not_read_again(train_fast, keeper, tmp_path):
    files = [tmp_path / "first.txt", tmp_path / "second.txt"]
    for number, file in enumerate(files):
        file.write_text("".join(f"{10 * number + line}\n" for line in range(8)))

    def make():
        lines = tf.data.TextLineDataset([str(file) for file in files]).map(tf.strings.to_number)
        return lines.apply(tf.data.experimental.assert_cardinality(16)).shuffle(2, seed=7).batch(2)

    whole = train_fast(make(), keeper, num_epochs=1)
    files[0].unlink()
    for path, done in keeper.saved[5:8]:
        assert train_fast(make(), resume_from=path, num_epochs=1) == whole[done:]


def test_a_graph_that_tensorflow_cant_write_down_is_read_again_or_refused(train_fast, keeper, monkeypatch):
    """As one of more than 2 GB, which takes too long here."""

    def fail(**_):
        raise tf.errors.InternalError(None, None, "too large")

    monkeypatch.setattr(tf.raw_ops, "DatasetToGraphV2", fail)
    assert_resumes_anywhere(train_fast, keeper, lambda: with_own_seeds("shuffle"))
    with pytest.raises(ConfigurationError, match=r"too large.*give its shuffle\(\.\.\., seed=\.\.\.\) a seed"):
        train_fast(without_seed("shuffle"), seed=3)


@EACH_CHAIN
def test_with_a_seed_the_order_depends_on_it_and_the_epoch_alone(train_fast, chain):
    found = orders(train_fast(without_seed(chain), seed=3))
    assert orders(train_fast(without_seed(chain), seed=3, num_epochs=NUM_EPOCHS + 1)) == found
    assert len({tuple(order) for order in found}) == (1 if chain == "once" else NUM_EPOCHS)
    other = orders(train_fast(without_seed(chain), seed=4))
    assert all(one != another for one, another in zip(found, other, strict=True))


def test_with_a_seed_so_does_what_is_sampled_from_several_datasets(train_fast):
    one, again, other = (train_fast(sampled(), seed=seed) for seed in (3, 3, 4))
    assert one == again != other


def sampled():
    return tf.data.Dataset.sample_from_datasets([numbers(), numbers().map(lambda n: n + 10)]).batch(4)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_shuffle_without_a_seed_warns_where_states_are_kept(train_fast, keeper, chain):
    train_fast(without_seed(chain), num_epochs=1)  # nobody keeps a state: a warning would be an error
    cure = "" if chain in SHUFFLES_OFTEN else r"shuffle\(\.\.\., seed=\.\.\.\) or "
    message = rf"shuffles without a seed.*Give {cure}TrainingManager\(\.\.\., seed=\.\.\.\)"
    with pytest.warns(MlpugWarning, match=message) as warned:
        train_fast(without_seed(chain), keeper, num_epochs=1)
    assert [warning.category for warning in warned].count(MlpugWarning) == 1


def test_without_a_seed_a_resumed_run_goes_on_in_the_epoch_that_was_under_way(train_fast, keeper):
    with pytest.warns(MlpugWarning, match="its later epochs in another order"):
        whole = train_fast(without_seed("shuffle"), keeper, num_epochs=1)
    for path, done in keeper.saved:
        assert train_fast(without_seed("shuffle"), resume_from=path, num_epochs=1) == whole[done:]
