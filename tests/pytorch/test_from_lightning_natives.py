"""Lightning's own callbacks around a ported module do what they do natively."""

import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch
from pytorch.native_projects import Classifier, Data
from pytorch.native_runs import differences, native, ported

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError, MlpugWarning

NUM_EPOCHS = 6


def early_stopping(folder):
    return pl.callbacks.EarlyStopping("val_loss", patience=0, min_delta=0.3)


def checkpoints_by_metric(folder):
    return pl.callbacks.ModelCheckpoint(folder, monitor="val_loss", filename="{epoch}-{step}", save_top_k=2)


def checkpoints_by_step(folder):
    return pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)


def averaging(folder):
    return pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2, annealing_epochs=2)


def pruning(folder):
    return pl.callbacks.ModelPruning("l1_unstructured", amount=0.3)


def timer(folder):
    return pl.callbacks.Timer(duration={"hours": 1})


@pytest.mark.parametrize(
    "make", [early_stopping, checkpoints_by_metric, checkpoints_by_step, averaging, pruning, timer]
)
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_as_natively(make, tmp_path):
    folders = {name: tmp_path / name for name in ("native", "ported")}
    saves = make in (checkpoints_by_metric, checkpoints_by_step)
    expected = native(Classifier, Data, NUM_EPOCHS, [make(folders["native"])], enable_checkpointing=saves)
    found = ported(Classifier, Data, NUM_EPOCHS, [make(folders["ported"])])
    assert differences(found, expected) == []
    files = [sorted(path.name for path in folder.rglob("*.ckpt")) for folder in folders.values()]
    assert files[0] == files[1]
    assert bool(files[0]) == saves
    assert (expected.lightning.current_epoch < NUM_EPOCHS) == (make is early_stopping)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pl.callbacks.GradientAccumulationScheduler({0: 2}),
        pl.callbacks.BatchSizeFinder,
        pl.callbacks.LearningRateFinder,
    ],
)
def test_what_would_count_by_itself_is_refused(make):
    with pytest.raises(ConfigurationError, match=r"a batch is an update|would take for training itself"):
        ported(Classifier, Data, NUM_EPOCHS, [make()], batch_chunk_size=4)  # else a batch is Lightning's


def test_a_metric_of_mlpugs_is_found_by_its_path():
    stopping = pl.callbacks.EarlyStopping("validation.dataset.val_loss", patience=0, min_delta=0.3)
    by_path = ported(Classifier, Data, NUM_EPOCHS, [stopping])
    by_name = ported(Classifier, Data, NUM_EPOCHS, [early_stopping(None)])
    assert by_path.module.seen == by_name.module.seen
    assert by_path.lightning.current_epoch < NUM_EPOCHS


@pytest.mark.parametrize("make", [averaging, pruning])
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_what_wouldnt_go_on_where_it_was_is_said_and_refused(make, tmp_path):
    name = type(make(tmp_path)).__name__
    manager = mlp.callbacks.CheckpointManager(tmp_path, "run", batch_level=False, metric_to_monitor=None)
    with pytest.warns(MlpugWarning, match=f"a run with {name}, from which it can't be resumed"):
        ported(Classifier, Data, 3, [make(tmp_path), manager])
    path = tmp_path / "run-training-checkpoint.safetensors"
    with pytest.raises(ConfigurationError, match=f"{name} can't be resumed"):
        ported(Classifier, Data, NUM_EPOCHS, [make(tmp_path)], resume_from=path)


def test_a_checkpoint_of_a_model_that_is_being_pruned_has_its_masks(tmp_path):
    manager = mlp.callbacks.CheckpointManager(tmp_path, "run", batch_level=False, metric_to_monitor=None)
    with pytest.warns(MlpugWarning, match="ModelPruning"):
        pruned = ported(Classifier, Data, 2, [pruning(tmp_path), manager])
    weights = safetensors.torch.load_file(tmp_path / "run-latest-model-checkpoint.safetensors")
    layer = {name.rpartition("/")[2]: tensor for name, tensor in weights.items() if "net.0.weight" in name}
    assert layer.keys() == {"net.0.weight_orig", "net.0.weight_mask"}
    product = layer["net.0.weight_orig"] * layer["net.0.weight_mask"]
    assert torch.equal(product, pruned.module.state_dict()["net.0.weight"])


class Frozen(pl.callbacks.BaseFinetuning):
    """The first layer joins the optimizer in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.002)


class OfTheUnfrozen(Classifier):
    def configure_optimizers(self):
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.01)


def test_layers_that_join_the_optimizer_join_it_again_in_a_resumed_run(tmp_path):
    expected = native(OfTheUnfrozen, Data, 4, [Frozen()])
    manager = mlp.callbacks.CheckpointManager(tmp_path, "run", batch_level=False, metric_to_monitor=None)
    first = ported(OfTheUnfrozen, Data, 2, [Frozen(), manager])
    path = tmp_path / "run-training-checkpoint.safetensors"
    resumed = ported(OfTheUnfrozen, Data, 4, [Frozen()], resume_from=path)
    assert first.module.seen[2:] + resumed.module.seen == expected.module.seen[2:]
    assert differences(resumed, expected) == ["seen"]
