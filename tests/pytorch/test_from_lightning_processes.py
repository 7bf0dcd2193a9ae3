"""Two processes train a LightningModule as Lightning alone would with them."""

import math
import subprocess
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

TRAIN = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from pytorch.native_projects import Measuring, loader, val_loader
from pytorch.native_runs import native, ported

if __name__ == "__main__":
    run = {"native": native, "ported": ported}[sys.argv[3]]
    options = {"num_epochs": 2, "devices": 2, "strategy": "ddp"}
    trained = run(Measuring, loader, val_dataloaders=val_loader, **options)
    torch.save((trained.module.seen, trained.module.state_dict()), f"{sys.argv[2]}/{trained.lightning.global_rank}.pt")
"""


def test_two_processes_are_those_of_lightning_alone(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    found = {}
    for run in ("native", "ported"):
        folder = tmp_path / run
        folder.mkdir()
        command = [sys.executable, str(script), str(Path(__file__).parents[1]), str(folder), run]
        trained = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert trained.returncode == 0, trained.stderr
        found[run] = [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
    for (of_lightning, weights), (ours, our_weights) in zip(found["native"], found["ported"], strict=True):
        assert ours == of_lightning
        for name, weight in weights.items():
            assert torch.equal(weight, our_weights[name]), name
    assert found["ported"][0][0] != found["ported"][1][0]  # each has its half of the data


IN_CHUNKS = """
import os
import sys
import torch
sys.path.insert(0, sys.argv[1])
from pytorch.native_runs import ported
from pytorch.test_from_lightning_chunks import Regression, Watch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.utils.data import DataLoader, TensorDataset

reductions = []


def counted(state, bucket):
    reductions.append(bucket.buffer().numel())
    return default_hooks.allreduce_hook(state, bucket)


class Counted(Regression):
    def on_train_start(self):
        self.trainer.strategy.model.register_comm_hook(None, counted)


class Moved(Watch):
    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))
        self.outputs.append(logs.at("training.batch.did_update_model"))


if __name__ == "__main__":
    def of_this_process():
        rank = int(os.environ.get("LOCAL_RANK", 0))
        return DataLoader(TensorDataset(*(part[rank::2] for part in torch.load(sys.argv[3]))), batch_size=4)

    processes = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    trained = ported(
        lambda: Counted(counts_tokens=True),
        of_this_process,
        num_epochs=1,
        callbacks=[watch := Moved()],
        batch_chunk_size=3,
        **processes,
    )
    found = (watch.losses, watch.outputs, len(reductions), trained.module.state_dict())
    torch.save(found, f"{sys.argv[2]}/{trained.lightning.global_rank}.pt")
"""


def test_the_chunks_of_two_processes_weigh_as_one_batch_of_all_would(tmp_path):
    x = torch.randn(22, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counts = torch.ones(22, dtype=torch.float64)
    counts[1:8:2] = 0.0  # the first batch of the second process
    counts[14] = 0.0  # the last chunk of the second batch of the first
    torch.save((x, x.sum(1), counts), tmp_path / "data.pt")
    script = tmp_path / "chunks.py"
    script.write_text(IN_CHUNKS)
    command = [sys.executable, str(script), str(Path(__file__).parents[1]), str(tmp_path), str(tmp_path / "data.pt")]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert trained.returncode == 0, trained.stderr
    (losses, moved, num_reductions, weights), (other_losses, other_moved, _, other_weights) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)
    )
    assert [math.isnan(loss) for loss in losses + other_losses] == [False, False, False, True, False, False]
    assert moved == other_moved == [True, True, True]
    assert num_reductions == 3  # once a batch

    pl.seed_everything(1, verbose=False)
    linear = torch.nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.05, momentum=0.5)
    for number in range(3):
        batch = slice(8 * number, 8 * number + 8)
        kept = counts[batch] > 0
        optimizer.zero_grad()
        (linear(2 * x[batch][kept])[:, 0] - x[batch][kept].sum(1)).square().mean().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9
    for name, weight in linear.state_dict().items():
        assert torch.equal(weights[f"linear.{name}"], other_weights[f"linear.{name}"])
        torch.testing.assert_close(weights[f"linear.{name}"], weight, rtol=1e-12, atol=1e-12)
