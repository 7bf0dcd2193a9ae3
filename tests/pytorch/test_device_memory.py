"""The memory of GPUs, as PyTorch tells it."""

import os
import subprocess
import sys

import pytest
import torch
from mlpug_lightning.callbacks import cuda_memory

import mlpug.callbacks
import mlpug.pytorch as mlp
from mlpug.callbacks import DeviceMemory

GIB = 2**30

MAKE = """
import mlpug.pytorch as mlp
try:
    mlp.callbacks.{name}()
except mlp.errors.ConfigurationError as error:
    print(error)
"""


def test_every_callback_of_the_core_is_there():
    assert set(mlp.callbacks.__all__) == {*mlpug.callbacks.__all__, "EmptyCudaCache", "LogCudaMemory", "as_native"}
    for name in mlpug.callbacks.__all__:
        assert getattr(mlp.callbacks, name) is getattr(mlpug.callbacks, name)


@pytest.mark.parametrize("name", ["LogCudaMemory", "EmptyCudaCache"])
def test_where_there_is_no_gpu_making_one_says_so(name):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", MAKE.format(name=name)]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=280)
    assert made.stdout.startswith(f"{name} needs a GPU that PyTorch can use")
    assert "Leave it out on this machine" in made.stdout


@pytest.fixture
def three_gpus(monkeypatch):
    """Of 80 GiB each; this process computes on the first and the third, and the second is somebody else's."""
    # number: (free on the device, reserved by this process, the most that it ever reserved)
    gpus = {0: (50 * GIB, 20 * GIB, 25 * GIB), 1: (10 * GIB, 0, 0), 2: (79 * GIB, GIB // 2, GIB // 2)}
    asked = []

    def mem_get_info(number):
        asked.append(number)
        return gpus[number][0], 80 * GIB

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda number: gpus[number][1])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda number: gpus[number][2])
    return asked


def test_used_is_what_is_not_free_and_the_largest_counts_what_this_process_once_had(three_gpus):
    assert cuda_memory() == [
        DeviceMemory("cuda:0", free=50 * GIB, used=30 * GIB, largest_used=35 * GIB, total=80 * GIB),
        DeviceMemory("cuda:2", free=79 * GIB, used=GIB, largest_used=GIB, total=80 * GIB),
    ]
    assert three_gpus == [0, 2]  # to ask another process's GPU would take memory there


class TrainModel(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return (self.weight * batch_data).mean() ** 2


def train(callbacks, accelerator, num_batches=5):
    component = torch.nn.ParameterList([torch.ones(1)])
    optimizer = torch.optim.SGD(component.parameters(), lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(optimizer, component, accelerator=accelerator, devices=1)
    trainer.set_training_model(TrainModel(component[0]))
    batches = [torch.ones(2)] * num_batches
    manager = mlp.trainers.TrainingManager(trainer, batches, num_epochs=2, callbacks=callbacks)
    manager.start_training()
    return manager


@pytest.mark.filterwarnings("ignore:GPU available but not used")  # Lightning believes in them too
def test_the_numbers_are_in_the_logs_of_a_run(three_gpus):
    manager = train([mlp.callbacks.LogCudaMemory(log_period=2)], "cpu")
    assert manager.logs.at("training_params.memory.cuda:0.largest_used") == 35 * GIB
    assert len(three_gpus) == 2 * (3 + 1) * 2  # two devices at batches 0, 2 and 4 and at the end of each of two epochs


@pytest.mark.filterwarnings("ignore:GPU available but not used")  # Lightning believes in them too
@pytest.mark.parametrize(("batch_period", "emptied_after"), [(None, [5, 10]), (3, [3, 5, 6, 9, 10])])
def test_the_cache_is_emptied_at_the_end_of_an_epoch_and_after_each_period(
    three_gpus, monkeypatch, batch_period, emptied_after
):
    def emptied_by(*callbacks):
        """How many batches were done at each time."""
        done, emptied = [], []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(done)))

        class Count(mlp.callbacks.Callback):
            def on_batch_training_completed(self, batch, logs):
                done.append(logs["current"]["global_iter"])

        train([Count(), *callbacks], "cpu")
        return emptied

    by_lightning = emptied_by()  # on its own, before it starts
    assert emptied_by(mlp.callbacks.EmptyCudaCache(batch_period)) == by_lightning + emptied_after


def test_a_period_below_one_is_refused(three_gpus):
    with pytest.raises(mlp.errors.ConfigurationError, match="batch_period must be a whole number of at least 1, not 0"):
        mlp.callbacks.EmptyCudaCache(batch_period=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_numbers_are_those_of_the_device_and_emptying_frees_them():
    class Waste(mlp.callbacks.Callback):
        """Leaves a GiB in the cache, and nothing that uses it."""

        def on_batch_training_completed(self, batch, logs):
            torch.empty(GIB, dtype=torch.uint8, device="cuda")

    def of(callbacks):
        return train([Waste(), *callbacks], "gpu").logs.at("training_params.memory.cuda:0")

    memory = mlp.callbacks.LogCudaMemory()
    emptied, kept = of([mlp.callbacks.EmptyCudaCache(), memory]), of([mlp.callbacks.LogCudaMemory()])
    for shown in (kept, emptied):
        assert shown["free"] + shown["used"] == shown["total"] == torch.cuda.mem_get_info(0)[1]
        assert shown["used"] <= shown["largest_used"] <= shown["total"]
    assert emptied["largest_used"] - emptied["used"] >= GIB
    assert torch.cuda.memory_reserved(0) >= GIB
