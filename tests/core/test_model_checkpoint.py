"""Model checkpoints: what their files hold, and what is refused before anything is restored."""

import math

import ml_dtypes
import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import (
    CheckpointDamagedError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigurationError,
    StateError,
)
from mlpug.logs import Lazy, Logs
from mlpug.model_checkpoint import Weight, check_fits, model_checkpoint_state, read_model_checkpoint, weight_of
from mlpug.plain_logs import logs_as_dict, logs_to_plain, restore_logs


def prepare(component, state, name):
    """How the components of these tests are restored: dicts of arrays."""
    check_fits(name, {path: weight_of(array) for path, array in component.items()}, state)
    return lambda: component.update(state)


def make_logs():
    scores = {"by class": {"cat": 0.5, "dog": (0.25, np.arange(3))}}
    validation = Logs(dataset=Logs(loss=0.25, scores=scores, nothing={}, counts={3: 4}))
    current = Logs(epoch=2, is_best=True, training=Logs(batch=Logs(loss=Lazy(lambda: np.float32(0.5)))))
    current["validation"] = validation
    return Logs(epoch=2, best=None, current=current)


AS_DICT = {
    "epoch": 2,
    "best": None,
    "current": {
        "epoch": 2,
        "is_best": True,
        "training": {"batch": {"loss": np.float32(0.5)}},
        "validation": {
            "dataset": {
                "loss": 0.25,
                "scores": {"by class": {"cat": 0.5, "dog": (0.25, [0, 1, 2])}},
                "nothing": {},
                "counts": {3: 4},
            }
        },
    },
}


def with_lists(tree):
    """The same with lists in the place of arrays, so that it can be compared."""
    if isinstance(tree, dict):
        return {key: with_lists(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(with_lists(item) for item in tree)
    return tree.tolist() if isinstance(tree, np.ndarray) else tree


def make_components():
    return {
        "encoder": {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "0.bias": np.zeros(2, np.float32)},
        "decoder": {"0.weight": RawTensor("BF16", (1,), np.array([0x80, 0x3F], np.uint8))},
    }


@pytest.fixture
def saved(tmp_path):
    """Saves a state and reads it as a model checkpoint: ``saved(changed="values", here="backend")``."""

    def save(here="fake", **changes):
        state = model_checkpoint_state("fake", make_components(), {"sizes": (2, 3)}, make_logs(), 40, 2) | changes
        path = tmp_path / "best.safetensors"
        checkpoints.save(path, state)
        return read_model_checkpoint(path, here, prepare)

    return save


def test_holds_what_was_saved(saved, tmp_path):
    checkpoint = saved()
    assert checkpoint.path == tmp_path / "best.safetensors"
    assert (checkpoint.backend, checkpoint.global_iter, checkpoint.epoch) == ("fake", 40, 2)
    assert checkpoint.hyper_parameters == {"sizes": (2, 3)}
    assert with_lists(checkpoint.logs) == AS_DICT
    assert list(checkpoint.components) == ["encoder", "decoder"]
    assert checkpoint.components["encoder"]["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert checkpoint.components["decoder"] == make_components()["decoder"]


def test_the_tensors_in_the_file_have_the_paths_of_the_weights(saved, tmp_path):
    saved()
    tensors = checkpoints.describe(tmp_path / "best.safetensors").tensors
    assert {name for name in tensors if name.startswith("model/")} == {
        "model/encoder/0.weight",
        "model/encoder/0.bias",
        "model/decoder/0.weight",
    }


def test_restores_what_is_named_and_leaves_the_rest(saved):
    checkpoint = saved()
    encoder = {path: np.full_like(array, 9) for path, array in make_components()["encoder"].items()}
    checkpoint.restore(encoder=encoder)
    assert encoder["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert encoder["0.bias"].tolist() == [0, 0]


def test_nothing_is_restored_where_one_of_several_does_not_fit(saved):
    encoder = {path: np.full_like(array, 9) for path, array in make_components()["encoder"].items()}
    with pytest.raises(CheckpointMismatchError, match="'decoder'"):
        saved().restore(encoder=encoder, decoder={"0.weight": np.zeros(2)})
    assert {int(number) for array in encoder.values() for number in array.flat} == {9}


def test_an_unknown_component_is_named_with_those_there_are(saved):
    with pytest.raises(CheckpointMismatchError, match="no component 'model'; it has 'encoder', 'decoder'"):
        saved().restore(model={})


def test_restoring_nothing_is_a_mistake(saved):
    with pytest.raises(ConfigurationError, match=r"'encoder', 'decoder'.*restore\(encoder=model\)"):
        saved().restore()


def test_another_backend_can_read_but_not_restore(saved):
    checkpoint = saved(backend="pytorch", here="keras")
    assert checkpoint.components["encoder"]["0.bias"].tolist() == [0, 0]
    with pytest.raises(CheckpointMismatchError, match="for PyTorch; it can't be restored into one for Keras"):
        checkpoint.restore(encoder=make_components()["encoder"])
    with pytest.raises(CheckpointMismatchError, match=r"for Keras .* into one for PyTorch"):
        saved(backend="keras", here="pytorch").restore(encoder={})


def test_a_training_checkpoint_has_the_components_too(saved):
    logs = logs_to_plain(Logs(epoch=1, current=Logs(epoch=1, global_iter=6)))
    state = {"kind": "training", "backend": "fake", "model": make_components(), "logs": logs}
    checkpoint = saved(**state, run={"batches_done": 7}, hyper_parameters=None)
    assert (checkpoint.global_iter, checkpoint.epoch, checkpoint.hyper_parameters) == (7, 1, None)
    encoder = {path: np.ones_like(array) for path, array in make_components()["encoder"].items()}
    checkpoint.restore(encoder=encoder)
    assert encoder["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "changes",
    [{"kind": "vocabulary"}, {"kind": None}, {"model": None}, {"model": {"encoder": np.zeros(1)}}],
)
def test_a_file_without_a_model_is_refused(saved, changes):
    with pytest.raises(CheckpointMismatchError, match="holds no model: it is a checkpoint of kind"):
        saved(**changes)


@pytest.mark.parametrize("name", ["backend", "logs", "global_iter"])
def test_a_file_with_a_model_only_is_refused(tmp_path, name):
    state = model_checkpoint_state("fake", {}, None, Logs(), 1, 0)
    del state[name]
    checkpoints.save(tmp_path / "state.safetensors", state)
    with pytest.raises(CheckpointMismatchError, match=f"'{name}' is missing"):
        read_model_checkpoint(tmp_path / "state.safetensors", "fake", prepare)


def test_logs_that_are_none_are_refused(saved):
    with pytest.raises(CheckpointMismatchError, match="logs of the checkpoint are a tuple"):
        saved(logs={"__tuple__": [1]})


def test_the_file_is_verified(saved, tmp_path):
    saved()
    path = tmp_path / "best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointDamagedError):
        read_model_checkpoint(path, "fake", prepare)
    with pytest.raises(CheckpointNotFoundError):
        read_model_checkpoint(tmp_path / "other.safetensors", "fake", prepare)


def test_says_where_hyper_parameters_and_logs_can_not_be_held():
    with pytest.raises(StateError, match=r"'hyper_parameters/activation' is a .*function"):
        model_checkpoint_state("fake", {}, {"activation": math.sin}, Logs(), 1, 0)
    logs = Logs(current=Logs(validation=Logs(dataset=Logs(curve={"points": [object()]}))))
    with pytest.raises(StateError, match=r"'logs/current/validation/dataset/curve/points/0' is an? object"):
        model_checkpoint_state("fake", {}, {}, logs, 1, 0)
    with pytest.raises(StateError, match="'logs/current' has one value only, by the name '__tuple__'"):
        model_checkpoint_state("fake", {}, {}, Logs(current=Logs(__tuple__=1)), 1, 0)


class Theirs:
    """An array of another library."""

    def __init__(self, numbers):
        self._numbers = numbers

    def __array__(self, dtype=None, copy=None):
        if self._numbers is None:
            raise TypeError("no numbers")
        return np.array(self._numbers, dtype)


def test_tensors_in_the_logs_come_back_as_arrays():
    assert logs_as_dict(logs_to_plain(Logs(score=Theirs([1, 2]))))["score"].tolist() == [1, 2]
    with pytest.raises(StateError, match="'logs/score'"):
        logs_to_plain(Logs(score=Theirs(None)))


def test_logs_are_restored_in_place(tmp_path):
    checkpoints.save(tmp_path / "logs.safetensors", logs_to_plain(make_logs()))
    plain = checkpoints.load(tmp_path / "logs.safetensors")

    def forbidden():
        raise AssertionError("restoring computes nothing")

    batch, unknown, dataset = Logs(old=1, loss=Lazy(forbidden)), Logs(a=1), Lazy(forbidden)
    current = Logs(epoch=0, other=unknown, training=Logs(batch=batch), validation=Logs(dataset=dataset))
    logs = Logs(epoch=0, final_epoch=9, current=current)
    restore_logs(logs, plain)

    assert with_lists(logs.snapshot()) == {**AS_DICT, "current": {**AS_DICT["current"], "other": {}}}
    assert type(batch["loss"]) is np.float32
    assert logs["current"] is current
    assert logs["current"]["training"]["batch"] is batch
    assert current["other"] is unknown  # who holds it goes on writing there
    assert isinstance(logs["current"]["validation"]["dataset"], Logs)
    assert type(logs["current"]["validation"]["dataset"]["scores"]) is dict
    assert logs.at("validation.dataset.loss") == 0.25


def expected_and(**found):
    check_fits("classifier", {"kernel": Weight("float32", (2, 3)), "extra": None, "step": Weight("int64", ())}, found)


FITTING = {"kernel": np.zeros((2, 3), np.float32), "extra": {"a": 1}, "step": np.array(3)}


@pytest.mark.parametrize(
    "kernel",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.float16),
        RawTensor("BF16", (2, 3), np.zeros(12, np.uint8)),
        RawTensor("F8_E4M3", (2, 3), np.zeros(6, np.uint8)),
    ],
)
def test_floats_of_any_size_fit(kernel):
    expected_and(**FITTING | {"kernel": kernel})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kernel": np.zeros((3, 2), np.float32)}, "- kernel: expected float32 (2, 3), found float32 (3, 2)"),
        ({"kernel": np.zeros((2, 3), np.int32)}, "- kernel: expected float32 (2, 3), found int32 (2, 3)"),
        ({"kernel": np.zeros((2, 3), np.complex64)}, "- kernel: expected float32 (2, 3), found complex64 (2, 3)"),
        ({"kernel": {"a": 1}}, "- kernel: expected float32 (2, 3), found a dict"),
        ({"kernel": None}, "- kernel: expected float32 (2, 3), found a NoneType"),
        ({"step": np.array(3, np.int32)}, "- step: expected int64 (), found int32 ()"),
        ({"step": np.array(3.0)}, "- step: expected int64 (), found float64 ()"),
        ({"bias": RawTensor("BF16", (1,), np.zeros(2, np.uint8))}, "- bias: expected nothing, found bfloat16 (1,)"),
    ],
)
def test_says_what_does_not_fit(changes, line):
    with pytest.raises(CheckpointMismatchError) as raised:
        expected_and(**FITTING | changes)
    lines = str(raised.value).splitlines()
    assert lines[0] == "The checkpoint doesn't fit the component 'classifier':"
    assert lines[1:-1] == [line]


@pytest.mark.parametrize("missing", FITTING)
def test_says_what_is_missing(missing):
    with pytest.raises(CheckpointMismatchError, match=f"- {missing}: expected .*, found nothing"):
        expected_and(**{path: array for path, array in FITTING.items() if path != missing})


def test_all_mismatches_are_told_at_once():
    with pytest.raises(CheckpointMismatchError) as raised:
        check_fits("model", {f"w{n}": Weight("float32", ()) for n in range(8)}, {f"v{n}": 1 for n in range(5)})
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:11]] == [*(f"- w{n}" for n in range(8)), "- v0", "- v1"]
    assert lines[11] == "and 3 more."


def test_a_resumed_run_needs_the_very_same_types():
    expected = {"kernel": Weight("float32", (1,))}
    check_fits("model", expected, {"kernel": np.zeros(1, np.float32)}, same_dtypes=True)
    with pytest.raises(CheckpointMismatchError, match=r"expected float32 \(1,\), found float64 \(1,\)"):
        check_fits("model", expected, {"kernel": np.zeros(1)}, same_dtypes=True)


def test_types_are_called_by_numpys_names():
    assert weight_of(np.zeros(2, ml_dtypes.bfloat16)) == Weight("bfloat16", (2,))
    assert weight_of(RawTensor("BF16", (2,), np.zeros(4, np.uint8))) == Weight("bfloat16", (2,))
    assert weight_of(RawTensor("F32", (2,), np.zeros(8, np.uint8))) == Weight("float32", (2,))
