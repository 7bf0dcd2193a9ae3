"""Files that claim too much are refused before they are parsed: in little time, and in little memory."""

import json
import math
import os
import resource
import time
import warnings

import numpy as np
import pytest
from core.checkpoint_runs import METRIC, TRAINING, Metric, StopAt, contents, manager_of
from core.test_checkpoint_damage import forged, tensor

from mlpug import checkpoints
from mlpug.callbacks import CheckpointManager
from mlpug.checkpoints import header, parsing
from mlpug.errors import CheckpointError, CheckpointMismatchError, StateError

READS = [checkpoints.describe, checkpoints.verify, checkpoints.load]
MOST_SECONDS, MOST_MEMORY = 2.0, 1 << 29

TOO_MUCH = {
    "entries": lambda: forged(extra="".join(f',"{number}":{{}}' for number in range(2_500_000))),
    "tensors": lambda: forged(
        extra="".join(f',"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(600_000))
    ),
    "lists": lambda: forged('{"a":[' + "[]," * 25_000_000 + "[]]}"),
    "dicts": lambda: forged('{"a":[' + "{}," * 20_000_000 + "{}]}"),
    "texts": lambda: forged('{"a":[' + '"",' * 12_000_000 + '""]}'),
    "keys": lambda: forged("{" + ",".join(f'"{number}":0' for number in range(6_000_000)) + "}"),
    "numbers": lambda: forged('{"a":[' + "1," * 40_000_000 + "1]}"),
    "a description": lambda: forged(description='{"a":[' + "[]," * 25_000_000 + "[]]}"),
    "digests": lambda: forged(digests="[" + "[]," * 25_000_000 + "[]]"),
    "axes": lambda: forged('{"x":{"$tensor":"x"}}', {"x": {**tensor(), "shape": []}}, bytes(8)).replace(
        b'"shape":[]', b'"shape":[' + b"1," * 40_000_000 + b"8]"
    ),
    "levels": lambda: forged("[" * 45_000_000 + "]" * 45_000_000),
    "no digest": lambda: (90_000_000).to_bytes(8, "little") + b'{"a":' * 18_000_000,
    "foreign": lambda: (90_000_004).to_bytes(8, "little") + b'{"":1' + b',"a":{}' * 12_857_142 + b"    }",
}


def in_a_child(read, path):
    """What it raised, the seconds that it computed, and the memory that it took, under a limit."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started, name = time.process_time(), "nothing"
            try:
                read(path)
            except Exception as error:  # noqa: BLE001 - its name is what the test looks at
                name = type(error).__name__
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(writes, json.dumps([name, time.process_time() - started, peak * 1024]).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


@pytest.mark.parametrize("title", list(TOO_MUCH))
def test_too_much_is_refused_before_it_is_parsed(tmp_path, title):
    path = tmp_path / "hostile"
    path.write_bytes(TOO_MUCH[title]()[: header.MAX_HEADER_LENGTH])
    for read in READS:
        raised, seconds, memory = in_a_child(read, path)
        assert raised == "CheckpointDamagedError"
        assert seconds < MOST_SECONDS
        assert memory < MOST_MEMORY


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(StateError, match=r"items, where at most 10000000 are allowed.*numpy arrays"):
        checkpoints.save(tmp_path / "state", {"indices": [0] * (parsing.MAX_ITEMS + 1)})
    assert os.listdir(tmp_path) == []


def test_a_hundred_thousand_tensors_are_no_harm(tmp_path):
    names = [f"encoder.layers.{number // 8}.attention.block_{number % 8}.weight" for number in range(100_000)]
    state = {name: np.zeros(0, np.float32) for name in names}
    checkpoints.save(tmp_path / "model", {"model": state})
    assert len(checkpoints.describe(tmp_path / "model").tensors) == len(state)
    assert list(checkpoints.load(tmp_path / "model")["model"]) == names


TERABYTE = 1 << 40


@pytest.mark.parametrize("is_there", [False, True], ids=["claimed", "holes"])
def test_a_terabyte_that_is_not_on_the_disk_is_refused(tmp_path, is_there):
    path = tmp_path / "hostile"
    entry = tensor(0, TERABYTE, shape=(TERABYTE,))
    path.write_bytes(forged('{"x":{"$tensor":"x"}}', {"x": entry}, digests=json.dumps({"x": "0" * 64})))
    if is_there:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size + TERABYTE)
    for read in READS:
        raised, seconds, memory = in_a_child(read, path)
        assert raised == "CheckpointDamagedError"
        assert seconds < MOST_SECONDS
        assert memory < MOST_MEMORY


def test_what_has_no_room_in_memory_is_an_error_of_checkpoints(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "state", {"weight": np.zeros(3)})

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("mlpug.checkpoints.reading.empty", full)
    with pytest.raises(CheckpointError, match="there isn't memory for what it holds"):
        checkpoints.load(tmp_path / "state")


HUGE = 10**400


@pytest.mark.parametrize(("mode", "best"), [("min", None), ("max", 2)])
def test_a_metric_beyond_all_floats_is_infinite(tmp_path, mode, best):
    saves = CheckpointManager(tmp_path, "run", metric_monitor_period=1, metric_opt_mode=mode)
    manager = manager_of([Metric([5, HUGE, 3] if best else [HUGE] * 3), saves], num_batches=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager.start_training()
    assert contents(tmp_path).get("run-best-model-checkpoint.safetensors") == best
    for name in contents(tmp_path):
        assert checkpoints.describe(tmp_path / name)


@pytest.fixture
def resumed_with(tmp_path):
    """Resumes a run whose training checkpoint has another value in one place."""

    def callbacks(*more, mode="min"):
        saves = CheckpointManager(tmp_path, "run", metric_monitor_period=1, metric_opt_mode=mode)
        return [Metric([3.0, 2.0, 1.0, 0.5]), saves, *more]

    def resume(place, value, **options):
        manager_of(callbacks(StopAt(2)), num_batches=4).start_training()
        state = checkpoints.load(tmp_path / TRAINING)
        *outer, last = place
        inside = state
        for name in outer:
            inside = inside[name]
        inside[last] = value
        checkpoints.save(tmp_path / TRAINING, state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            manager_of(callbacks(**options), num_batches=4).start_training("auto")
        return tmp_path

    return resume


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("best", [HUGE, -HUGE, math.inf])
def test_a_best_metric_beyond_all_floats_is_read(resumed_with, best, mode):
    folder = resumed_with(("callbacks", "CheckpointManager", "best"), best, mode=mode)
    assert contents(folder)[TRAINING] == 4
    assert METRIC in checkpoints.load(folder / TRAINING)["callbacks"]["CheckpointManager"]["metric"]


PLACES = [
    *[("run", count) for count in ("completed_epochs", "batches_done", "first_batch")],
    *[(part,) for part in ("run", "logs", "callbacks", "configuration", "processes")],
    ("configuration", "versions"),
    ("callbacks", "CheckpointManager", "best"),
]


@pytest.mark.parametrize("value", [HUGE, -1, 0.5, "text", None, [], [[]], {"a": 1}], ids=lambda value: f"{value!r:.9}")
@pytest.mark.parametrize("place", PLACES, ids="/".join)
def test_something_else_in_its_place_is_an_error_of_checkpoints(resumed_with, place, value):
    if place[-1] == "best" and not isinstance(value, (str, list, dict)):
        pytest.skip("it is a metric")
    if place[-1] in ("logs", "callbacks", "versions") and isinstance(value, dict):
        pytest.skip("it is right, as far as can be known")
    with pytest.raises(CheckpointMismatchError):
        resumed_with(place, value)
