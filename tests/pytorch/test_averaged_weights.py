"""Training goes on from the trained weights; a model that is saved is the average, as in Lightning's own files."""

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.errors import CheckpointMismatchError

NUM_EPOCHS, BATCHES_PER_EPOCH = 3, 4
SAMPLES = torch.randn(BATCHES_PER_EPOCH * 8, 6, generator=torch.Generator().manual_seed(3))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return (self.net(batch_data) ** 2).mean()

    def training_step(self, batch, batch_idx):
        return self(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class EachEpoch(pl.callbacks.WeightAveraging):
    def should_update(self, step_idx=None, epoch_idx=None):
        return epoch_idx is not None


def moving():
    return pl.callbacks.EMAWeightAveraging(decay=0.8)


def late_and_without_buffers():
    return pl.callbacks.EMAWeightAveraging(
        decay=0.5, use_buffers=False, update_every_n_steps=3, update_starting_at_step=2, update_starting_at_epoch=1
    )


def data():
    return DataLoader(SAMPLES, batch_size=8)


def train_model(callbacks, num_epochs=NUM_EPOCHS, resume_from=None):
    module = Module()
    trainer = mlp.trainers.DefaultTrainer(module.configure_optimizers(), module.net, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, data(), num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(module)
    manager.start_training(resume_from=resume_from)
    return module.net.state_dict()


def train_ported(callbacks, num_epochs=NUM_EPOCHS, resume_from=None):
    module = Module()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(
        module, val_dataloaders=data(), val_check_interval=2, accelerator="cpu"
    )
    manager = mlp.trainers.TrainingManager(trainer, data(), num_epochs=num_epochs, callbacks=callbacks)
    manager.start_training(resume_from=resume_from)
    return module.net.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def weights_in(path):
    (state,) = checkpoints.load(path)["model"].values()
    return {name.removeprefix("net."): torch.as_tensor(array).clone() for name, array in state.items()}


def folder(path):
    path.mkdir()
    return Keeper(path)


@pytest.mark.parametrize("train", [train_model, train_ported])
@pytest.mark.parametrize("make", [moving, late_and_without_buffers, EachEpoch])
def test_a_run_goes_on_from_the_trained_weights(tmp_path, train, make):
    torch.manual_seed(0)
    keeper, again, shorter = (folder(tmp_path / name) for name in ("whole", "again", "shorter"))
    whole = train([keeper, make()])
    torch.manual_seed(0)
    train([again], num_epochs=NUM_EPOCHS)  # nobody averages
    assert len(keeper.saved) == len(again.saved)
    for (path, _), (other, _) in zip(keeper.saved, again.saved, strict=True):
        assert_same(weights_in(path), weights_in(other))
    torch.manual_seed(0)
    train([shorter, make()], num_epochs=NUM_EPOCHS - 1)
    places = [[path for path, done in keeper.saved if done == batches][-1] for batches in (3, 4, 6)]
    for path in [*places, shorter.saved[-1][0]]:
        torch.manual_seed(9)
        assert_same(train([make()], resume_from=path), whole)


@pytest.mark.parametrize("train", [train_model, train_ported])
def test_a_saved_model_is_the_average_as_in_lightnings_own_files(tmp_path, train):
    torch.manual_seed(0)
    own = pl.callbacks.ModelCheckpoint(tmp_path / "own", filename="{step}", every_n_train_steps=6, save_top_k=-1)
    saves = mlp.callbacks.CheckpointManager(
        tmp_path, "run", metric_to_monitor=None, archive_last_model_checkpoint_every=6, create_checkpoint_every=100
    )
    train([moving(), own, saves])
    native = torch.load(tmp_path / "own" / "step=6.ckpt", weights_only=False)["state_dict"]
    prefix = "net." if train is train_ported else "model_components.model."
    native = {name.removeprefix(prefix): each for name, each in native.items() if name.startswith(prefix)}
    assert_same(weights_in(tmp_path / "run-model-checkpoint-6.safetensors"), native)


def test_an_error_in_a_validation_leaves_the_trained_weights(tmp_path):
    class Fails(pl.Callback):
        def on_validation_batch_start(self, trainer, pl_module, *_):
            if trainer.global_step == 6:
                raise RuntimeError("in a validation")

    torch.manual_seed(0)
    whole, keeper = train_ported([moving()]), folder(tmp_path / "stopped")
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="in a validation"):
        train_ported([keeper, moving(), Fails()])
    torch.manual_seed(9)
    assert_same(train_ported([moving()], resume_from=keeper.saved[-1][0]), whole)


def test_a_callback_that_is_new_begins_with_the_weights(tmp_path):
    keeper = Keeper(tmp_path)
    train_ported([keeper])
    never = pl.callbacks.EMAWeightAveraging(update_starting_at_step=1000)
    trained = train_ported([never], resume_from=keeper.saved[5][0])
    saved = weights_in(keeper.saved[5][0])
    assert_same({name: trained[name] for name in trained}, saved)


def test_a_file_without_averages_is_refused(tmp_path):
    keeper = Keeper(tmp_path)
    train_model([keeper, moving()])
    path = keeper.saved[5][0]
    state = checkpoints.load(path)
    del state["lightning"]["averages"]
    checkpoints.save(path, state)
    with pytest.raises(CheckpointMismatchError, match=r"no averages of EMAWeightAveraging"):
        train_model([moving()], resume_from=path)
