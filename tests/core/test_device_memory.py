"""The memory of the devices, as a table and in the logs."""

import logging

import numpy as np
import pytest

from mlpug.callbacks import Callback, DeviceMemory, History, LogDeviceMemory, Tensorboard
from mlpug.errors import ConfigurationError

GIB = 2**30
DATASET = [np.array([value]) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]


class Devices:
    """Two devices of 8 GiB; at each look the first has used half a GiB more, and the second's maximum stays."""

    def __init__(self):
        self.looks = 0

    def __call__(self):
        self.looks += 1
        used = self.looks * GIB // 2
        return [
            DeviceMemory("cuda:0", free=8 * GIB - used, used=used, largest_used=used, total=8 * GIB),
            DeviceMemory("cuda:1", free=7 * GIB, used=GIB, largest_used=5 * GIB, total=8 * GIB),
        ]


class See(Callback):
    """Writes down how much the first device has used, at each hook that looks."""

    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(logs.at("training_params.memory.cuda:0.used"))

    def on_epoch_completed(self, logs):
        self.seen.append(logs.at("training_params.memory.cuda:0.used"))


@pytest.fixture
def messages(caplog):
    """What mlpug's loggers said."""
    with caplog.at_level(logging.INFO, logger="mlpug"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "mlpug.LogDeviceMemory"]


def test_the_numbers_of_each_device_are_in_the_logs_in_bytes(train):
    manager = train(DATASET[:1], [LogDeviceMemory(Devices(), batch_level=False)], num_epochs=1)
    assert manager.logs["current"]["training_params"]["memory"].snapshot() == {
        "cuda:0": {"free": 15 * GIB // 2, "used": GIB // 2, "largest_used": GIB // 2, "total": 8 * GIB},
        "cuda:1": {"free": 7 * GIB, "used": GIB, "largest_used": 5 * GIB, "total": 8 * GIB},
    }


def test_the_table_has_a_row_for_each_device(train, messages):
    train(DATASET[:1], [LogDeviceMemory(Devices(), batch_level=False)], num_epochs=1)
    assert messages() == [
        "end of epoch 0\n"
        "device           free         used largest used        total\n"
        "cuda:0       7.50 GiB    512.0 MiB    512.0 MiB     8.00 GiB\n"
        "cuda:1       7.00 GiB     1.00 GiB     5.00 GiB     8.00 GiB\n"
    ]


def test_it_looks_at_each_period_and_at_the_end_of_an_epoch(train, messages):
    see, devices = See(), Devices()
    train(DATASET, [LogDeviceMemory(devices, log_period=2), see], num_epochs=2)
    looks = [1, 1, 2, 2, 3, 4, 5, 5, 6, 6, 7, 8]  # after each of five batches and an epoch's end, twice
    assert see.seen == [look * GIB // 2 for look in looks]
    assert [message.split("\n")[0] for message in messages()] == [
        line
        for epoch in (0, 1)
        for line in [*(f"epoch {epoch}, batch {batch}" for batch in (0, 2, 4)), f"end of epoch {epoch}"]
    ]


def test_without_the_batch_level_it_looks_at_the_end_of_an_epoch_alone(train):
    devices = Devices()
    train(DATASET, [LogDeviceMemory(devices, log_period=1, batch_level=False)], num_epochs=3)
    assert devices.looks == 3


def test_what_a_backend_does_not_tell_is_a_dash_and_not_in_the_logs(train, messages):
    def read():
        return [DeviceMemory("cuda:0", free=None, used=2**20, largest_used=2**21, total=None)]

    manager = train(DATASET[:1], [LogDeviceMemory(read, batch_level=False)], num_epochs=1)
    assert manager.logs["current"]["training_params"]["memory"].snapshot() == {
        "cuda:0": {"used": 2**20, "largest_used": 2**21}
    }
    assert messages()[0].splitlines()[-1].split() == ["cuda:0", "-", "1.0", "MiB", "2.0", "MiB", "-"]


@pytest.mark.parametrize(("rank", "num_messages"), [(0, 1), (1, 0)])
def test_only_the_first_process_prints_and_each_has_its_own_logs(
    make_trainer, make_manager, mean_model, on_rank, messages, rank, num_messages
):
    trainer = make_trainer(mean_model)
    trainer.adapter = on_rank(trainer.adapter, rank)
    callbacks = [LogDeviceMemory(Devices(), batch_level=False)]
    manager = make_manager(DATASET, callbacks, trainer=trainer, num_epochs=1)
    manager.start_training()
    assert len(messages()) == num_messages
    assert manager.logs.at("training_params.memory.cuda:0.used") == GIB // 2


def test_a_history_has_it_and_a_curve_can_be_asked_for(train, tmp_path):
    history = History()
    path = "training_params.memory.cuda:1.largest_used"
    curve = Tensorboard("memory", [path], batch_level=False, directory=tmp_path)
    train(DATASET, [LogDeviceMemory(Devices()), curve, history], num_epochs=2)
    assert history.to_dict()[path] == [5 * GIB, 5 * GIB]
    assert [folder.name for folder in (tmp_path / "memory").iterdir()] == ["training_params-memory"]


def test_an_error_of_the_reader_arrives_unchanged(train):
    error = RuntimeError("the driver is gone")

    def read():
        raise error

    with pytest.raises(RuntimeError) as raised:
        train(DATASET, [LogDeviceMemory(read)], num_epochs=1)
    assert raised.value is error


def test_a_period_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="log_period must be a whole number of at least 1, not 0"):
        LogDeviceMemory(Devices(), log_period=0)
