"""as_native is a guest in ``Trainer.fit``: what Lightning lets pass isn't ended by it."""

import copy
import pickle
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_runs import QUIET, plain

import mlpug.pytorch as mlp
from mlpug.callbacks import Callback
from mlpug.checkpoints.locks import RunLock
from mlpug.errors import CheckpointInUseError, MlpugWarning

NUM_EPOCHS = 3


class Project(pl.LightningModule):
    """Dropout: another use of the random numbers would show."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) ** 2).mean()
        self.seen.append(loss.item())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Heard(Callback):
    def __init__(self):
        self.counts, self.losses, self.outcome = [], [], None

    def on_epoch_start(self, logs):
        self.counts.append(0)

    def on_batch_training_completed(self, batch, logs):
        self.counts[-1] += 1
        self.losses.append(logs.at("training.batch.loss"))

    def on_training_ended(self, logs, **outcome):
        self.outcome = outcome


def samples():
    return torch.utils.data.TensorDataset(torch.linspace(-1, 1, 30).reshape(10, 3))


def loader():
    return torch.utils.data.DataLoader(samples(), batch_size=4, shuffle=True)


class UsedUp(torch.utils.data.IterableDataset):
    """Gives its samples once."""

    def __init__(self):
        self.remaining = iter(samples())

    def __iter__(self):
        return self.remaining


def used_up():
    return torch.utils.data.DataLoader(UsedUp(), batch_size=4)


def fit(data, *callbacks, num_epochs=NUM_EPOCHS, **arguments):
    pl.seed_everything(3, verbose=False)
    module = Project()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="(pytorch_lightning|torch).*")
        trainer = pl.Trainer(max_epochs=num_epochs, callbacks=list(callbacks), **{**QUIET, **arguments})
        trainer.fit(module, data)
    return module, trainer


def assert_same(run, other):
    (module, trainer), (expected, alone) = run, other
    assert module.seen == expected.seen
    assert plain(module.state_dict()) == plain(expected.state_dict())
    assert (trainer.current_epoch, trainer.global_step) == (alone.current_epoch, alone.global_step)


def checkpoints_in(folder, **arguments):
    return mlp.callbacks.CheckpointManager(
        folder, "run", batch_level=False, metric_to_monitor="training.batch.loss", **arguments
    )


def test_a_stream_that_is_used_up_leaves_epochs_without_batches(tmp_path):
    alone, heard = fit(used_up()), Heard()
    assert len(alone[0].seen) == 3
    assert_same(fit(used_up(), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path))), alone)
    assert heard.counts == [3, 0, 0]
    assert heard.losses == alone[0].seen
    assert heard.outcome["stopped_on_error"] is False


class Counting(pl.Callback):
    """Remembers something, under a key that isn't text."""

    def __init__(self, key):
        self.key, self.count = key, 0

    @property
    def state_key(self):
        return type(self) if self.key is None else self.key

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


@pytest.mark.parametrize("keys", [[None], [("a", 1), ("a", 2)], [property(), 3, "text"]], ids=str)
def test_a_state_key_may_be_anything_and_what_is_under_it_is_kept(tmp_path, keys):
    alone = fit(loader(), *map(Counting, keys))
    run = fit(loader(), *map(Counting, keys), mlp.callbacks.as_native(checkpoints_in(tmp_path)), num_epochs=2)
    assert run[0].seen == alone[0].seen[: len(run[0].seen)]
    pl.seed_everything(3, verbose=False)
    resumed, counting = Project(), [Counting(key) for key in keys]
    trainer = mlp.trainers.DefaultTrainer.from_lightning(resumed, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, loader(), num_epochs=NUM_EPOCHS, callbacks=counting)
    manager.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")
    assert resumed.seen == alone[0].seen[len(run[0].seen) :]
    assert [callback.count for callback in counting] == [3 * NUM_EPOCHS] * len(keys)


class Copies(pl.Callback):
    """As a launcher of processes, or a search for hyper-parameters, copies a Trainer."""

    def __init__(self, hook):
        self.copied = []
        setattr(self, hook, self._copy)

    def _copy(self, trainer, *_):
        self.copied = [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]

    def __reduce__(self):
        return object, ()


def all_kinds(folder):
    return [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator()),
        mlp.callbacks.LogProgress(log_period=2),
        mlp.callbacks.ProgressBar(),
        mlp.callbacks.History(),
        mlp.callbacks.Tensorboard("run", ["training.batch.loss"], directory=folder),
        checkpoints_in(folder, save_in_background=True),
    ]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_batch_end", "on_train_epoch_end", "on_fit_end"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_trainer_is_copied_and_pickled_with_it(tmp_path, hook, is_first):
    alone, heard, copies = fit(loader()), Heard(), Copies(hook)
    ours = mlp.callbacks.as_native(heard, *all_kinds(tmp_path))
    callbacks = [copies, ours] if is_first else [ours, copies]
    assert_same(fit(loader(), *callbacks), alone)
    assert heard.counts == [3] * NUM_EPOCHS
    for copied in copies.copied:
        (callback,) = [each for each in copied.callbacks if type(each) is type(ours)]
        assert callback is not ours
        assert callback.state_key == ours.state_key
    assert len(copies.copied) == 2


def test_a_copy_hears_of_a_run_of_its_own(tmp_path):
    ours = mlp.callbacks.as_native(Heard())
    fit(loader(), ours)
    copied = pickle.loads(pickle.dumps(ours))
    assert_same(fit(loader(), copied), fit(loader()))
    (heard,) = copied._attached.callbacks
    assert heard.counts == [3] * NUM_EPOCHS * 2  # what it had heard, and its own run


@pytest.mark.parametrize("arguments", [{"max_epochs": 0}, {"limit_train_batches": 0}, {"fast_dev_run": True}], ids=str)
def test_runs_of_no_batches_or_of_one(tmp_path, arguments):
    num_epochs = arguments.pop("max_epochs", NUM_EPOCHS)
    alone = fit(loader(), num_epochs=num_epochs, **arguments)
    heard = Heard()
    ours = mlp.callbacks.as_native(heard, checkpoints_in(tmp_path))
    assert_same(fit(loader(), ours, num_epochs=num_epochs, **arguments), alone)
    assert sum(heard.counts) == len(alone[0].seen)


class Fails(pl.Callback):
    def on_train_batch_end(self, *_):
        raise ValueError("mine")


def test_the_files_are_its_own_while_it_trains_and_no_longer(tmp_path):
    lock = RunLock(tmp_path / ".run.mlpug-lock")
    lock.acquire()
    heard = Heard()
    with pytest.raises(CheckpointInUseError, match="has locked"):
        fit(loader(), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path)))
    lock.release()
    assert (heard.counts, heard.outcome) == ([], None)

    with pytest.raises(ValueError, match="mine"):
        fit(loader(), mlp.callbacks.as_native(heard, checkpoints_in(tmp_path)), Fails())
    assert heard.outcome["stopped_on_error"] is True
    lock.acquire()  # free
    lock.release()
    fit(loader(), mlp.callbacks.as_native(checkpoints_in(tmp_path)))
    lock.acquire()


class Sharded(Project):
    def configure_model(self):
        """ModelParallelStrategy asks for it."""


@pytest.fixture
def group_is_left():
    """Lightning makes a group of processes, and leaves it there."""
    yield
    torch.distributed.destroy_process_group()


def test_under_a_strategy_that_shards_one_warning_says_that_nothing_is_saved(tmp_path, group_is_left):
    heard = Heard()
    ours = mlp.callbacks.as_native(heard, checkpoints_in(tmp_path))
    strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    trainer = pl.Trainer(max_epochs=1, strategy=strategy, devices=1, callbacks=[ours], **QUIET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Sharded(), loader())
    (warning,) = [each for each in caught if issubclass(each.category, MlpugWarning)]
    text = str(warning.message)
    assert "as_native leaves CheckpointManager out of this run, and nothing is saved: ModelParallelStrategy" in text
    assert "ModelCheckpoint" in text
    assert heard.counts == [3]
    assert heard.outcome["callback_calls_success"] is True
    assert list(tmp_path.iterdir()) == []
