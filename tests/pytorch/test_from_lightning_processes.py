"""Two processes train a LightningModule as Lightning alone would with them."""

import subprocess
import sys
from pathlib import Path

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
        trained = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert trained.returncode == 0, trained.stderr
        found[run] = [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
    for (of_lightning, weights), (ours, our_weights) in zip(found["native"], found["ported"], strict=True):
        assert ours == of_lightning
        for name, weight in weights.items():
            assert torch.equal(weight, our_weights[name]), name
    assert found["ported"][0][0] != found["ported"][1][0]  # each has its half of the data
