"""A checkpoint is a file that other people's tools open."""

import numpy as np
import torch
from safetensors.torch import load_file

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor


def test_torch_opens_a_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    half = RawTensor("BF16", (2,), torch.tensor([1.0, -2.5], dtype=torch.bfloat16).view(torch.uint8).numpy())
    weight = np.arange(6.0).reshape(2, 3)
    checkpoints.save(path, {"model": {"weight": weight}, "list": [1, np.zeros((0, 2))], "half": half})

    loaded = load_file(path)

    assert loaded["model/weight"].tolist() == weight.tolist()
    assert list(loaded["list/1"].shape) == [0, 2]
    assert loaded["half"].dtype is torch.bfloat16
    assert loaded["half"].tolist() == [1.0, -2.5]
