"""Where no process has the whole state, a checkpoint is refused when the manager is made, and training isn't."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_runs import QUIET

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError


class FSDP(pl.strategies.FSDPStrategy):
    """Lightning itself refuses FSDP without a GPU, but not a strategy that is derived from it."""


class DeepSpeed(pl.strategies.DeepSpeedStrategy):
    """Made without the package deepspeed."""

    def __init__(self):
        pl.strategies.DDPStrategy.__init__(self)


def model_parallel():
    return pl.strategies.ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)


class Project(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.num_steps = 0

    def training_step(self, batch, batch_idx):
        self.num_steps += 1
        return self.layer(batch).mean()

    def configure_model(self):
        """ModelParallelStrategy asks for it."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sharded(Project):
    def configure_optimizers(self):
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(self.parameters(), torch.optim.SGD, lr=0.1)


def loader():
    return torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)


def default(**arguments):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return mlp.trainers.DefaultTrainer(optimizer, model, **arguments)


def ported(**arguments):
    return mlp.trainers.DefaultTrainer.from_lightning(Project(), **arguments)


def checkpoints_in(folder):
    return mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None)


@pytest.mark.parametrize("make", [default, ported])
@pytest.mark.parametrize("strategy", [FSDP, DeepSpeed, model_parallel], ids=lambda kind: kind.__name__)
def test_checkpoints_of_a_sharded_run_are_refused_by_name(tmp_path, make, strategy):
    trainer = make(strategy=strategy(), devices=1, **QUIET)
    name = type(trainer.native.trainer.strategy).__name__
    with pytest.raises(ConfigurationError, match=f"CheckpointManager can't.*{name} shares.*ModelCheckpoint.*'ddp'"):
        mlp.trainers.TrainingManager(trainer, loader(), callbacks=[checkpoints_in(tmp_path)])
    manager = mlp.trainers.TrainingManager(trainer, loader(), callbacks=[mlp.callbacks.LogProgress()])
    for wanted in (manager.get_state, manager.get_model_state):
        with pytest.raises(ConfigurationError, match=f"{wanted.__name__} can't.*{name} shares"):
            wanted()
    if make is ported:
        with pytest.raises(ConfigurationError, match=f"resume_from=... can't.*{name} shares|can't make or load"):
            manager.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_checkpoints_of_other_strategies_are_made(tmp_path, strategy):
    trainer = ported(strategy=strategy, devices=1, **QUIET)
    mlp.trainers.TrainingManager(trainer, loader(), callbacks=[checkpoints_in(tmp_path)])


@pytest.fixture
def one_process(tmp_path):
    """A group of one process, in which a ZeroRedundancyOptimizer can be made."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:`torch.jit")  # which torch itself calls there
def test_an_optimizer_that_is_sharded_is_refused_when_it_is_known(tmp_path, one_process):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = torch.nn.Linear(1, 1)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(optimizer, model, **QUIET)
    with pytest.raises(ConfigurationError, match=r"CheckpointManager can't.*ZeroRedundancyOptimizer shares its state"):
        mlp.trainers.TrainingManager(trainer, loader(), callbacks=[checkpoints_in(tmp_path)])
    module = Sharded()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, strategy="ddp", devices=1, **QUIET)
    manager = mlp.trainers.TrainingManager(trainer, loader(), callbacks=[checkpoints_in(tmp_path)])
    with pytest.raises(ConfigurationError, match=r"CheckpointManager can't.*ZeroRedundancyOptimizer shares its state"):
        manager.start_training()
    assert module.num_steps == 0


class LooksAtBatchSize(pl.strategies.SingleDeviceStrategy):
    """As DeepSpeed's strategy does, when it is set up."""

    def setup(self, trainer):
        loaders = trainer.fit_loop._data_source.dataloader()
        self.batch_size = loaders.batch_sampler.batch_size if hasattr(loaders, "batch_sampler") else None
        super().setup(trainer)


def as_list():
    return [torch.ones(2, 1), torch.ones(2, 1)]


def unbatched():
    return torch.utils.data.DataLoader(as_list(), batch_size=None)


class Once(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.ones(4, 1))


class TrainingModel(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return self.layer(batch_data).mean()


def iterator():
    return iter(as_list())


def stream():
    return torch.utils.data.DataLoader(Once(), batch_size=2)


@pytest.mark.parametrize(
    ("make", "data", "expected"),
    [
        *((default, data, None) for data in (as_list, iterator)),
        (ported, iterator, None),  # to which a list is one of loaders
        (default, unbatched, None),  # in a ported run as natively, where such a strategy can't do with it
        *((make, data, 2) for make in (default, ported) for data in (loader, stream)),
    ],
)
def test_a_strategy_that_asks_for_the_batch_size_finds_it_or_nothing(make, data, expected):
    strategy = LooksAtBatchSize(torch.device("cpu"), accelerator=pl.accelerators.CPUAccelerator())
    quiet = {name: value for name, value in QUIET.items() if name != "accelerator"}
    trainer = make(strategy=strategy, **quiet)
    if make is default:
        trainer.set_training_model(TrainingModel(trainer.model_components["model"]))
    mlp.trainers.TrainingManager(trainer, data()).start_training()
    assert strategy.batch_size == expected
