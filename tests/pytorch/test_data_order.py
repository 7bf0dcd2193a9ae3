"""The order of a DataLoader's batches: as Lightning draws it, and as it was in the run that is resumed."""

import multiprocessing
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset, WeightedRandomSampler

import mlpug.pytorch as mlp
from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning

NUM_SAMPLES, BATCH_SIZE, NUM_BATCHES, NUM_EPOCHS = 11, 3, 4, 2
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13


class Samples(torch.utils.data.Dataset):
    """The number of the sample, and noise from everywhere; counts what is loaded."""

    def __init__(self, draw=np.random, is_noisy=True):
        self.draw, self.is_noisy = draw, is_noisy
        self.loaded = []

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        self.loaded.append(int(index))
        noise = [torch.rand(()), self.draw.uniform(0, 1), random.random()] if self.is_noisy else [0, 0, 0]
        return torch.tensor([index, *noise], dtype=torch.float32)


def share_of_worker(samples):
    worker = torch.utils.data.get_worker_info()
    return samples if worker is None else samples[worker.id :: worker.num_workers]


class Stream(IterableDataset):
    """The same without a length, shuffled when it is begun."""

    def __iter__(self):
        samples = Samples()
        return (samples[index] for index in share_of_worker(torch.randperm(NUM_SAMPLES).tolist()))


class BufferedStream(IterableDataset):
    """Draws each sample from a buffer when it is asked for."""

    def __iter__(self):
        samples, buffer = Samples(), list(range(NUM_SAMPLES))
        while buffer:
            yield samples[buffer.pop(int(torch.randint(len(buffer), ())))]


class StatefulStream(IterableDataset):
    """Says itself where it is, to torchdata's loader."""

    def __init__(self):
        self.next = 0

    def __iter__(self):
        share, samples = share_of_worker(range(NUM_BATCHES * BATCH_SIZE)), Samples(is_noisy=False)
        while self.next < len(share):
            self.next += 1
            yield samples[share[self.next - 1]]
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Pairs(torch.utils.data.Sampler):
    """Batches of two neighbours, in an order that numpy draws."""

    def __iter__(self):
        return ([2 * pair, 2 * pair + 1] for pair in np.random.permutation(NUM_BATCHES).tolist())

    def __len__(self):
        return NUM_BATCHES


def loader(dataset=None, **options):
    return DataLoader(Samples() if dataset is None else dataset, batch_size=BATCH_SIZE, **options)


def stateful(dataset, **options):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(dataset, batch_size=BATCH_SIZE, **options)


def generator(number):
    return torch.Generator().manual_seed(number)


def weighted(own=None):
    return loader(sampler=WeightedRandomSampler(torch.arange(NUM_SAMPLES) + 1.0, NUM_SAMPLES, generator=own))


def drawing_from_its_own(number):
    return Samples(np.random.default_rng(number))


TWO = {"num_workers": 2}
LIVING_ON = {**TWO, "persistent_workers": True}  # whose random numbers nobody knows
WITHOUT_WORKERS = {
    "shuffle": lambda number: loader(shuffle=True),
    "generator": lambda number: loader(shuffle=True, generator=generator(number)),
    "weighted sampler": lambda number: weighted(),
    "weighted sampler with a generator": lambda number: weighted(generator(number)),
    "batch sampler": lambda number: DataLoader(Samples(), batch_sampler=Pairs()),
    "distributed sampler": lambda number: loader(sampler=DistributedSampler(Samples(), 1, 0, seed=5)),
    "dataset with a generator": lambda number: loader(drawing_from_its_own(number), shuffle=True),
    "subset of that": lambda number: loader(Subset(drawing_from_its_own(number), range(1, NUM_SAMPLES)), shuffle=True),
}
KINDS = WITHOUT_WORKERS | {
    "shuffle, 2 workers": lambda number: loader(shuffle=True, **TWO),
    "shuffle, 2 persistent workers": lambda number: loader(Samples(is_noisy=False), shuffle=True, **LIVING_ON),
    "generator, 2 workers": lambda number: loader(shuffle=True, generator=generator(number), **TWO),
    "stream": lambda number: loader(Stream()),
    "stream, 2 workers": lambda number: loader(Stream(), **TWO),
    "buffered stream, 2 workers": lambda number: loader(BufferedStream(), **TWO),
}
# What it draws for a batch, from the numbers that the model draws from too, is kept for later ones: nobody knows it.
NEEDS_A_SEED = {"buffered stream": lambda number: loader(BufferedStream())}
TORCHDATA = {
    "torchdata, shuffle": lambda number: stateful(Samples(), shuffle=True),
    "torchdata, shuffle, 2 workers": lambda number: stateful(Samples(is_noisy=False), shuffle=True, **TWO),
    "torchdata, generator": lambda number: stateful(Samples(), shuffle=True, generator=generator(number)),
}
# Loaded at its end, torchdata's loader begins a stream twice, and draws from torch's numbers twice.
NEEDS_A_SEED |= {
    "torchdata, stream": lambda number: stateful(StatefulStream()),
    "torchdata, stream, 2 workers": lambda number: stateful(StatefulStream(), **TWO),
}
# Lightning asks a loader without a length for a batch ahead, before the model has drawn; see `Batches`.
ASKED_AHEAD = ("stream",)


def each_of(kinds):
    return pytest.mark.parametrize("make", kinds.values(), ids=kinds)


class Model(torch.nn.Module):
    """Its dropout draws from torch's global numbers."""

    def __init__(self):
        super().__init__()
        self.weight, self.dropout = torch.nn.Parameter(torch.full((4,), 0.5)), torch.nn.Dropout(0.5)

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return (self.dropout(batch_data) @ self.weight).square().mean()


class Recorder(Callback):
    """Writes down the batches, and draws random numbers as others might."""

    def __init__(self, num_draws=1):
        self.batches, self.drawn, self.num_draws = [], [], num_draws

    def add(self, epoch, batch):
        self.batches.append((epoch, batch.tolist()))
        self.drawn += [(torch.rand(()).item(), np.random.normal(), random.random()) for _ in range(self.num_draws)]

    def on_batch_training_completed(self, batch, logs):
        self.add(logs["current"]["epoch"], batch)


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path)


def start_from(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def train(
    make, number=1, keeper=None, resume_from=None, num_draws=1, num_epochs=NUM_EPOCHS, ends_workers=True, **options
):
    """Train; give the batches, what others drew, and the weights in the end."""
    start_from(number)
    dataset, model, recorder = make(number), Model(), Recorder(num_draws)
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.01), model, accelerator="cpu")
    callbacks = [recorder] if keeper is None else [recorder, keeper]
    manager = mlp.trainers.TrainingManager(trainer, dataset, num_epochs, callbacks, **options)
    trainer.set_training_model(model)
    start_from(number)
    manager.start_training(resume_from)
    if ends_workers and hasattr(dataset._iterator, "_shutdown_workers"):
        dataset._iterator._shutdown_workers()  # or the next run would be forked from a process that has them
    return recorder.batches, recorder.drawn, model.weight.tolist()


def orders(batches):
    """The numbers of the samples, for each epoch."""
    return [[row[0] for epoch, batch in batches for row in batch if epoch == number] for number in range(NUM_EPOCHS)]


def assert_resumes_anywhere(make, keeper, **options):
    whole, drawn, weights = train(make, keeper=keeper, **options)
    assert train(make, **options) == (whole, drawn, weights)
    assert {done for _, done in keeper.saved} == set(range(1, len(whole) + 1))
    for path, done in keeper.saved[:-2]:  # at the last two all is done
        batches, *others = train(make, 100 + done, resume_from=path, **options)
        assert (done, batches) == (done, whole[done:])
        assert others == [drawn[done:], weights]


@pytest.mark.parametrize("options", [{}, {"seed": 3}], ids=["by default", "with a seed"])
@each_of(KINDS | TORCHDATA)
# The stream's noise, which it doesn't keep, is drawn anew without harm; mlpug can't know that it isn't kept.
@pytest.mark.filterwarnings("ignore:The training dataset draws from the global random numbers")
def test_a_run_resumed_after_any_batch_goes_on_with_the_next(make, options, keeper):
    assert_resumes_anywhere(make, keeper, **options)


@each_of(NEEDS_A_SEED)
def test_what_keeps_what_it_draws_goes_on_so_with_a_seed(make, keeper):
    assert_resumes_anywhere(make, keeper, seed=3)


def test_what_keeps_what_it_draws_warns_without_one(keeper):
    make = NEEDS_A_SEED["buffered stream"]
    with pytest.warns(MlpugWarning, match=r"the global random numbers of .*torch for each batch.*seed=") as warned:
        train(make, keeper=keeper)
    assert len(warned) == 1


@each_of({name: KINDS[name] for name in ("shuffle", "stream, 2 workers")})
def test_it_does_so_where_epochs_are_shorter_than_the_data(make, keeper):
    assert_resumes_anywhere(make, keeper, num_batches_per_epoch=2)


@each_of(WITHOUT_WORKERS | {"torchdata": TORCHDATA["torchdata, shuffle"]})
def test_without_workers_samples_that_are_done_are_not_loaded_again(make, keeper):
    whole, *_ = train(make, keeper=keeper)
    for path, done in keeper.saved:
        resumed = make(2)
        train(lambda number, made=resumed: made, resume_from=path)
        samples = resumed.dataset.dataset if isinstance(resumed.dataset, Subset) else resumed.dataset
        assert (done, samples.loaded) == (done, [row[0] for _, batch in whole[done:] for row in batch])


class Native(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.recorder = Model(), Recorder()

    def training_step(self, batch):
        return self.model(batch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.recorder.add(self.current_epoch, batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.01)


@each_of({name: make for name, make in KINDS.items() if name not in ASKED_AHEAD})
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_by_default_the_batches_are_those_that_lightning_sees_without_mlpug(make, tmp_path):
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    native, trainer = Native(), pl.Trainer(accelerator="cpu", max_epochs=NUM_EPOCHS, **silent)
    start_from(1)
    trainer.fit(native, make(1))
    assert train(make) == (native.recorder.batches, native.recorder.drawn, native.model.weight.tolist())


@pytest.mark.parametrize("name", KINDS)
def test_with_a_seed_the_order_depends_on_it_and_the_epoch_alone(name):
    found = orders(train(KINDS[name], seed=3)[0])
    assert orders(train(KINDS[name], 2, num_draws=2, num_epochs=NUM_EPOCHS + 1, seed=3)[0]) == found
    assert found[0] != found[1]
    other = orders(train(KINDS[name], seed=4)[0])
    has_its_own = name == "distributed sampler"
    assert [one == another for one, another in zip(found, other, strict=True)] == [has_its_own] * NUM_EPOCHS


def test_no_worker_outlives_training():
    train(lambda number: loader(shuffle=True, **LIVING_ON), ends_workers=False)
    alive = multiprocessing.active_children()
    for process in alive:
        process.terminate()
    assert alive == []
