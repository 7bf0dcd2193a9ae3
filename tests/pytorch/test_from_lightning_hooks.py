"""Hooks, callbacks and the Trainer itself see in a ported run what they see by Trainer.fit, and are left like that."""

import copy
import logging
import pickle
import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch.native_projects import Classifier, Data, loader, val_loader
from pytorch.native_runs import QUIET, begin, differences, native, ported

import mlpug.pytorch as mlp

HOOKS = [
    *("configure_callbacks", "prepare_data", "setup", "configure_model", "configure_optimizers", "train_dataloader"),
    *("val_dataloader", "on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_epoch_start"),
    *("on_validation_epoch_end", "on_train_epoch_end", "on_train_end", "teardown"),
]


def given(module, data, lightning, callbacks=(), num_epochs=2):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, lightning_trainer=lightning)
    mlp.trainers.TrainingManager(trainer, data, num_epochs=num_epochs, callbacks=list(callbacks)).start_training()


def saves(folder, **options):
    return mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, **options)


class WithLoaders(Classifier):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return val_loader()


def test_hooks_are_called_in_their_order():
    class Telling(WithLoaders):
        def __init__(self):
            super().__init__()
            self.called = []

        def __getattribute__(self, name):
            if name in HOOKS:
                self.called.append(name)
            return super().__getattribute__(name)

    called = []
    for run in (native, ported):
        calls = run(Telling, lambda: None, num_epochs=2).module.called
        called.append([name for number, name in enumerate(calls) if number == 0 or calls[number - 1] != name])
    assert [called[0].count(name) > 0 for name in HOOKS]
    assert called[1][-len(called[0]) :] == called[0]


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.filterwarnings("ignore:The training dataset ended after")
def test_an_epoch_that_a_hook_leaves_out(at):
    class Leaving(Classifier):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if self.current_epoch == 1 and batch_idx == at else None

    assert differences(native(Leaving, Data), ported(Leaving, Data)) == []


def test_a_loader_that_was_set_on_the_module_is_left_there():
    begin(1)
    module = Classifier()
    module.train_dataloader, module.val_dataloader = loader, val_loader
    for _ in range(2):
        given(module, module, pl.Trainer(**QUIET))
    assert module.train_dataloader is loader


def test_the_trainer_is_left_as_by_fit(tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss")
    lightning = pl.Trainer(**QUIET, max_epochs=7, callbacks=[own := pl.Callback()])
    begin(1)
    module = Classifier()
    module.test_step = module.validation_step
    given(module, Data(), lightning, [best])
    natives = [callback for callback in lightning.callbacks if type(callback) is not pl.callbacks.ModelCheckpoint]
    assert natives == [own]
    assert best in lightning.checkpoint_callbacks
    assert lightning.max_epochs == 7
    assert type(lightning.callback_metrics) is dict
    assert type(lightning.fit_loop._combined_loader) is pl.utilities.CombinedLoader
    pickle.loads(pickle.dumps(lightning))
    lightning.test(module, val_loader(), ckpt_path=best.best_model_path, verbose=False)

    another = pl.callbacks.EarlyStopping("val_loss")
    begin(1)
    given(Classifier(), Data(), lightning, [another])
    assert another in lightning.callbacks
    assert best not in lightning.callbacks  # it was of the run before


def test_a_state_key_that_is_a_class(tmp_path):
    class Keyed(pl.Callback):
        count = 0

        @property
        def state_key(self):
            return type(self)

        def on_train_batch_end(self, *_):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state_dict):
            self.count = state_dict["count"]

    ported(Classifier, Data, num_epochs=2, callbacks=[Keyed(), saves(tmp_path, batch_level=False)])
    resumed = Keyed()
    ported(
        Classifier,
        Data,
        callbacks=[resumed],
        resume_from=tmp_path / "run-training-checkpoint.safetensors",
    )
    assert resumed.count == 3 * 8


class Showing(Classifier):
    """Keeps what its hooks are shown."""

    def __init__(self):
        super().__init__()
        self.saved, self.loaded = [], []

    def on_save_checkpoint(self, checkpoint):
        self.saved.append(sorted(checkpoint))
        checkpoint["steps"] = int(next(iter(checkpoint["optimizer_states"][0]["state"].values()))["step"])

    def on_load_checkpoint(self, checkpoint):
        self.loaded.append(copy.deepcopy(checkpoint))


def test_hooks_of_checkpoints_see_those_of_lightning(tmp_path):
    of_lightning = native(Showing, Data, num_epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    ours = ported(Showing, Data, num_epochs=1, callbacks=[saves(tmp_path, batch_level=False)])
    assert set(map(tuple, ours.module.saved)) == set(map(tuple, of_lightning.module.saved))
    path = tmp_path / "run-training-checkpoint.safetensors"
    (loaded,) = ported(Showing, Data, num_epochs=2, resume_from=path).module.loaded
    assert sorted(loaded) == sorted([*ours.module.saved[0], "steps"])
    assert loaded["steps"] == 8
    assert loaded["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 8
    of_optimizer = loaded["optimizer_states"][0]["state"][0]
    assert of_optimizer["step"] == 8


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_no_optimizer(tmp_path):
    class Without(Classifier):
        def see(self, what, value):
            self.seen.append((what, float(value), 0.0))

        def configure_optimizers(self):
            return None

    assert differences(native(Without, Data), ported(Without, Data)) == []
    ported(Without, Data, num_epochs=1, callbacks=[saves(tmp_path, batch_level=False), mlp.callbacks.LogProgress()])
    path = tmp_path / "run-training-checkpoint.safetensors"
    resumed = ported(Without, Data, num_epochs=3, resume_from=path)
    assert differences(native(Without, Data), resumed) in ([], ["seen"])


def test_what_a_callback_says_is_heard(tmp_path, monkeypatch):
    # Else it is said by whichever of Lightning's packages another test has imported last.
    monkeypatch.setattr(rank_zero, "log", logging.getLogger("pytorch_lightning.utilities.rank_zero"))

    class Heard(logging.Handler):
        def __init__(self):
            super().__init__()
            self.said = []

        def emit(self, record):
            self.said.append(re.sub(r"\S*tmp\S*|Elapsed time is \S+", "", record.getMessage()))

    said = []
    for number, run in enumerate((partial(native, enable_checkpointing=True), ported)):
        callbacks = [
            pl.callbacks.ModelCheckpoint(tmp_path / str(number), monitor="val_loss", verbose=True),
            pl.callbacks.EarlyStopping("val_loss", verbose=True),
            pl.callbacks.Timer({"milliseconds": 1}, interval="epoch", verbose=True),
        ]
        logger, handler = logging.getLogger("pytorch_lightning"), Heard()
        logger.addHandler(handler)
        run(Classifier, Data, num_epochs=2, callbacks=callbacks)
        logger.removeHandler(handler)
        noise = ("GPU available", "TPU available", "💡 Tip", "`Trainer.fit` stopped")
        said.append({line for line in handler.said if not line.startswith(noise)})
    assert said[0] == said[1]
    assert len(said[0]) >= 3
    assert not [line for line in handler.said if line.startswith(noise)]


def test_a_loaders_state_is_in_lightnings_own_checkpoints(tmp_path):
    class Batches:
        def __init__(self):
            self.loader = val_loader()

        def __iter__(self):
            return iter(self.loader)

        def __len__(self):
            return len(self.loader)

        def state_dict(self):
            return {"said": 1}

        def load_state_dict(self, state_dict):
            pass

    saved = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    ported(Classifier, Batches, num_epochs=1, callbacks=[saved], val_dataloaders=val_loader)
    loops = torch.load(tmp_path / "last.ckpt", weights_only=False)["loops"]
    assert loops["fit_loop"]["state_dict"]["combined_loader"] == [{"said": 1}]
