"""The weights of torch modules in a checkpoint, and back."""

import copy

import numpy as np
import pytest
import torch
from mlpug_lightning.arrays import as_array, as_tensor, leaf_from_plain, leaf_to_plain
from mlpug_lightning.components import component_state, load_component_state
from safetensors.torch import load_file

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import CheckpointMismatchError, ConfigurationError, StateError
from mlpug.logs import Logs
from mlpug.model_checkpoint import model_checkpoint_state
from mlpug.plain import from_plain, to_plain

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"]
OTHERS = ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "complex64", "complex128"]


def make_network(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 5),
        torch.nn.ModuleDict({"head": torch.nn.Linear(5, 2)})["head"],
    ).to(dtype)
    network[1].running_mean.normal_()  # as if it had been trained
    network[1].num_batches_tracked.fill_(seed)
    return network


def same_bits(one, other):
    """Whether two modules' states are the same, down to the bits and the types."""
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(
        a.dtype == b.dtype and a.contiguous().numpy(force=True).tobytes() == b.contiguous().numpy(force=True).tobytes()
        if a.dtype is not torch.bfloat16
        else torch.equal(a.view(torch.int16), b.view(torch.int16))
        for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


@pytest.fixture
def through_a_file(tmp_path):
    """Saves components, and reads them as users do: ``through_a_file(model=module)``."""

    def save_and_load(**components):
        path = tmp_path / "best.safetensors"
        states = {name: component_state(module) for name, module in components.items()}
        checkpoints.save(path, model_checkpoint_state("pytorch", states, {}, Logs(), 1, 0))
        return mlp.load_model_checkpoint(path)

    return save_and_load


@pytest.mark.parametrize("dtype", FLOATS + OTHERS)
@pytest.mark.parametrize("shape", [(), (3, 4), (0, 2)])
def test_a_tensor_of_any_type_keeps_its_bits(tmp_path, dtype, shape):
    dtype = getattr(torch, dtype)
    size = torch.empty((), dtype=dtype).element_size()
    length = int(np.prod(shape))
    bits = np.random.default_rng(0).integers(0, 2 if dtype is torch.bool else 256, size * length, dtype=np.uint8)
    tensor = torch.from_numpy(bits).view(dtype).reshape(shape) if length else torch.empty(shape, dtype=dtype)

    checkpoints.save(tmp_path / "tensor.safetensors", {"tensor": as_array(tensor)})
    back = as_tensor(checkpoints.load(tmp_path / "tensor.safetensors")["tensor"])

    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert not length or back.reshape(-1).view(torch.uint8).numpy().tobytes() == bits.tobytes()


def test_an_array_is_the_tensors_own_memory():
    tensor, half = torch.zeros(3, requires_grad=True), torch.zeros(2, dtype=torch.bfloat16)
    array, raw = as_array(tensor), as_array(half)
    with torch.no_grad():
        tensor += 1
        half += 1
    assert array.tolist() == [1, 1, 1]
    assert raw.data.tolist() == [0x80, 0x3F] * 2  # 1.0 as bfloat16, little-endian


def test_views_are_saved_as_they_are_seen():
    matrix = torch.arange(6.0).reshape(2, 3)
    assert as_array(matrix.T).tolist() == [[0, 3], [1, 4], [2, 5]]
    half = matrix.to(torch.bfloat16).T
    assert as_tensor(as_array(half)).tolist() == [[0, 3], [1, 4], [2, 5]]
    conjugated = torch.tensor([1 + 2j]).conj()
    assert as_array(conjugated).tolist() == [1 - 2j]
    assert as_array(conjugated.imag).tolist() == [-2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.empty(2, device="meta"),
        lambda: torch.zeros(2, dtype=torch.complex32),
    ],
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_other_tensors_are_refused(make):
    with pytest.raises(StateError, match="can't hold a tensor"):
        as_array(make())


@pytest.mark.parametrize("tree", [torch.Size([2, 3]), torch.bfloat16, torch.device("cuda:1"), (torch.float32, None)])
def test_what_optimizers_hold_comes_back(tmp_path, tree):
    checkpoints.save(tmp_path / "state.safetensors", {"tree": to_plain(tree, leaf_to_plain)})
    back = from_plain(checkpoints.load(tmp_path / "state.safetensors")["tree"], leaf_from_plain)
    assert type(back) is type(tree)
    assert back == tree


def test_a_name_that_is_no_type_of_torch_is_refused():
    with pytest.raises(ValueError, match="no dtype: 'load'"):
        from_plain({"__leaf__": {"dtype": "load"}}, leaf_from_plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_and_buffers_come_back(through_a_file, dtype):
    trained, fresh = make_network(1, dtype), make_network(2, dtype)
    parameters = list(fresh.parameters())
    assert not same_bits(trained, fresh)
    through_a_file(model=trained).restore(model=fresh)
    assert same_bits(trained, fresh)
    assert fresh[1].num_batches_tracked.item() == 1
    assert all(one is other for one, other in zip(parameters, fresh.parameters(), strict=True))  # as optimizers know


def test_what_is_restored_shares_no_memory_with_the_checkpoint(through_a_file):
    trained, fresh = make_network(1), make_network(2)
    checkpoint = through_a_file(model=trained)
    checkpoint.restore(model=fresh)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    checkpoint.restore(model=fresh)
    assert same_bits(trained, fresh)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_opens_the_weights_by_torchs_names(through_a_file, dtype):
    trained = make_network(1, dtype)
    loaded = load_file(through_a_file(classifier=trained).path)
    assert loaded.keys() == {f"model/classifier/{name}" for name in trained.state_dict()}
    for name, value in trained.state_dict().items():
        assert loaded[f"model/classifier/{name}"].dtype is value.dtype
        assert torch.equal(loaded[f"model/classifier/{name}"], value)


def test_a_smaller_type_rounds_as_torch_does(through_a_file):
    trained, fresh, by_torch = make_network(1), make_network(2, torch.bfloat16), make_network(3, torch.bfloat16)
    by_torch.load_state_dict(trained.state_dict())
    through_a_file(model=trained).restore(model=fresh)
    assert fresh[0].weight.dtype is torch.bfloat16
    assert same_bits(fresh, by_torch)


def test_a_smaller_type_is_refused_where_the_run_has_to_be_the_same():
    with pytest.raises(CheckpointMismatchError, match=r"0\.weight: expected bfloat16 \(4, 1, 3, 3\), found float32"):
        load_component_state(make_network(1, torch.bfloat16), component_state(make_network(2)), "model", True)


class Tied(torch.nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.out = torch.nn.Linear(3, 5, bias=False)
        if tied:
            self.out.weight = self.embedding.weight


def test_tied_weights_stay_tied(through_a_file):
    trained, fresh = Tied(), Tied()
    checkpoint = through_a_file(model=trained)
    assert checkpoint.components["model"].keys() == {"embedding.weight", "out.weight"}
    checkpoint.restore(model=fresh)
    assert fresh.out.weight is fresh.embedding.weight
    assert torch.equal(fresh.out.weight, trained.embedding.weight)


def test_two_weights_can_not_become_one(through_a_file):
    fresh = Tied()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(CheckpointMismatchError, match=r"'embedding.weight' and 'out.weight' are one tied weight"):
        through_a_file(model=Tied(tied=False)).restore(model=fresh)
    assert torch.equal(fresh.out.weight, before["out.weight"])


def test_one_weight_can_become_two(through_a_file):
    trained, fresh = Tied(), Tied(tied=False)
    through_a_file(model=trained).restore(model=fresh)
    assert torch.equal(fresh.out.weight, trained.out.weight)
    assert torch.equal(fresh.embedding.weight, trained.out.weight)


class WithExtraState(torch.nn.Module):
    def __init__(self, extra=None):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_extra_state_comes_back(through_a_file):
    trained = WithExtraState({"range": (0.5, torch.ones(2)), 3: {"a"}, "table": np.arange(2)})
    fresh = WithExtraState()
    through_a_file(model=torch.nn.Sequential(trained)).restore(model=torch.nn.Sequential(fresh))
    assert fresh.extra["range"][0] == 0.5
    assert torch.equal(fresh.extra["range"][1], torch.ones(2))
    assert fresh.extra[3] == {"a"}
    assert fresh.extra["table"].tolist() == [0, 1]


@pytest.mark.parametrize("extra", [torch.arange(3), np.arange(3.0), None, (1, 2)])
def test_extra_state_may_be_anything(through_a_file, extra):
    fresh = WithExtraState("not restored")
    through_a_file(model=WithExtraState(extra)).restore(model=fresh)
    assert type(fresh.extra) is type(extra)
    assert repr(fresh.extra) == repr(extra)


def test_extra_state_that_is_no_data_is_refused():
    with pytest.raises(StateError, match=r"'_extra_state/function' is a .*function"):
        component_state(WithExtraState({"function": torch.relu}))


def test_lazy_modules(through_a_file):
    with pytest.raises(StateError, match="'weight' isn't there yet: call the lazy module once"):
        component_state(torch.nn.LazyLinear(2))
    trained, lazy = torch.nn.Linear(3, 2), torch.nn.LazyLinear(2)
    through_a_file(model=trained).restore(model=lazy)
    assert torch.equal(lazy.weight, trained.weight)


def test_a_compiled_module_is_the_module_that_was_compiled(through_a_file):
    trained, fresh = make_network(1), make_network(2)
    checkpoint = through_a_file(model=torch.compile(trained, backend="eager"))
    assert checkpoint.components["model"].keys() == trained.state_dict().keys()
    checkpoint.restore(model=torch.compile(fresh, backend="eager"))
    assert same_bits(trained, fresh)


class Versioned(torch.nn.Linear):
    """Converts what its first version had saved."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_the_state_of_todays_module_is_not_converted(through_a_file):
    trained, fresh = Versioned(1, 1), Versioned(1, 1)
    through_a_file(model=trained).restore(model=fresh)
    assert torch.equal(fresh.weight, trained.weight)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (torch.nn.Linear(3, 4), r"weight: expected float32 \(2, 3\), found float32 \(4, 3\)"),
        (torch.nn.Linear(3, 2, bias=False), r"bias: expected float32 \(2,\), found nothing"),
        (torch.nn.Bilinear(3, 3, 2), r"weight: expected float32 \(2, 3\), found float32 \(2, 3, 3\)"),
        (torch.nn.Linear(3, 2, dtype=torch.complex64), r"weight: expected float32 \(2, 3\), found complex64 \(2, 3\)"),
        (torch.nn.ParameterDict({"scale": torch.ones(1)}), r"scale: expected nothing, found float32 \(1,\)"),
    ],
)
def test_what_does_not_fit_changes_nothing(through_a_file, other, problem):
    model = torch.nn.Linear(3, 2)
    before = copy.deepcopy(model)
    with pytest.raises(CheckpointMismatchError, match=problem):
        through_a_file(model=other).restore(model=model)
    assert same_bits(model, before)


def test_what_is_no_module_is_refused(through_a_file):
    with pytest.raises(StateError, match=r"must be a torch.nn.Module"):
        component_state([1])
    with pytest.raises(ConfigurationError, match=r"'model' must be a torch.nn.Module"):
        through_a_file(model=torch.nn.Linear(1, 1)).restore(model=None)


def test_a_checkpoint_of_keras_is_refused(tmp_path):
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, model_checkpoint_state("keras", {"model": {"kernel": np.ones(1)}}, {}, Logs(), 1, 0))
    with pytest.raises(CheckpointMismatchError, match=r"for Keras .* can't be restored into one for PyTorch"):
        mlp.load_model_checkpoint(path).restore(model=torch.nn.Linear(1, 1))


def test_a_raw_tensor_of_a_type_that_numpy_has():
    assert as_tensor(RawTensor("F32", (1,), np.array([1.5], "<f4").view(np.uint8))).tolist() == [1.5]
