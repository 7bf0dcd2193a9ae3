"""The weights of Keras models in a checkpoint, and back."""

import keras
import ml_dtypes
import numpy as np
import pytest
from mlpug_keras.arrays import as_array, as_value
from mlpug_keras.components import component_state, load_component_state, load_model_checkpoint

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import CheckpointMismatchError, ConfigurationError, StateError
from mlpug.logs import Logs
from mlpug.model_checkpoint import model_checkpoint_state

TYPES = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int32", "bool", "float8_e4m3fn", "float8_e5m2"]

RANDOM = np.random.default_rng(0)


def make_classifier(dtype="float32", width=3):
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((width,)), *layers, keras.layers.Dense(2)])
    if dtype != "float32":
        model = keras.Sequential(
            [keras.Input((width,), dtype=dtype), keras.layers.Dense(4, dtype=dtype), keras.layers.Dense(2, dtype=dtype)]
        )
    randomize(model)
    return model


def randomize(model):
    """Weights as if it had been trained: none are as they were made."""
    for weight in model.weights:
        weight.assign(RANDOM.normal(size=weight.shape))


def arrays_of(model):
    return [np.asarray(array).tolist() for array in model.get_weights()]


@pytest.fixture
def through_a_file(tmp_path):
    """Saves components, and reads them as users do: ``through_a_file(model=layer)``."""

    def save_and_load(random=False, **components):
        path = tmp_path / "best.safetensors"
        states = {name: component_state(layer, random) for name, layer in components.items()}
        checkpoints.save(path, model_checkpoint_state("keras", states, {}, Logs(), 1, 0))
        return load_model_checkpoint(path)

    return save_and_load


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (2, 3), (0, 2)])
def test_a_variable_of_any_type_keeps_its_numbers(tmp_path, dtype, shape):
    if dtype == "float64" and keras.backend.backend() == "jax":
        dtype = "float32"  # JAX has none, unless told to
    numbers = np.arange(int(np.prod(shape))).reshape(shape) - 1.0
    variable = keras.Variable(numbers.astype("uint8") if dtype == "uint8" else numbers, dtype=dtype, trainable=False)

    checkpoints.save(tmp_path / "variable.safetensors", {"variable": as_array(variable)})
    saved = checkpoints.load(tmp_path / "variable.safetensors")["variable"]
    back = as_value(saved)

    assert isinstance(saved, RawTensor) == (dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"))
    assert (back.dtype.name, back.shape) == (dtype, shape)
    assert back.tobytes() == keras.ops.convert_to_numpy(variable).tobytes()


def test_a_raw_tensor_of_a_type_that_numpy_has():
    assert as_value(RawTensor("F32", (1,), np.array([1.5], "<f4").view(np.uint8))).tolist() == [1.5]


def built(layer):
    layer.build((None, 1))
    return layer


def test_a_layer_that_keras_does_not_track_is_not_the_models():
    class WithUntracked(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            object.__setattr__(self, "teacher", built(keras.layers.Dense(1)))

    layer = WithUntracked()
    layer.dense.build((None, 1))
    assert list(component_state(layer)) == ["dense.kernel", "dense.bias"]


def test_seeds_and_metrics_are_saved_where_a_run_goes_on():
    class WithMetric(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dropout = keras.layers.Dropout(0.5, seed=3)
            self.mean = keras.metrics.Mean()
            self.noise = keras.random.SeedGenerator(4)

    layer = WithMetric()
    layer.built = True
    layer.mean.update_state([1.0, 4.0])
    layer.dropout(np.ones(3), training=True)
    state = component_state(layer, random=True)
    assert {path: array.tolist() for path, array in state.items()} == {
        "run:noise": [4, 0],
        "run:mean.0": 5,  # their sum, and how many
        "run:mean.1": 2,
        "run:dropout.seed_generator": [3, 1],
    }
    assert component_state(layer) == {}


def test_weights_of_a_training_checkpoint_are_restored_without_its_seeds(through_a_file):
    trained, fresh = make_classifier(), make_classifier()
    seed = fresh.layers[2].seed_generator.state
    before = as_array(seed).tolist()
    checkpoint = through_a_file(random=True, model=trained)
    assert "run:dropout.seed_generator" in checkpoint.components["model"]
    checkpoint.restore(model=fresh)
    assert arrays_of(trained) == arrays_of(fresh)
    assert as_array(seed).tolist() == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_types_keep_their_bits(through_a_file, dtype):
    trained, fresh = make_classifier(dtype), make_classifier(dtype)
    checkpoint = through_a_file(model=trained)
    checkpoint.restore(model=fresh)
    for one, other in zip(trained.weights, fresh.weights, strict=True):
        assert other.dtype == dtype
        assert as_array(one).tobytes() == as_array(other).tobytes()


def test_a_smaller_type_rounds_as_keras_does(through_a_file):
    trained, fresh = keras.layers.Dense(50), keras.layers.Dense(50, dtype="bfloat16")
    trained.build((None, 4))
    fresh.build((None, 4))
    through_a_file(model=trained).restore(model=fresh)
    by_keras = keras.Variable(np.zeros((4, 50)), dtype="bfloat16")
    by_keras.assign(trained.kernel.value)
    assert as_array(fresh.kernel).dtype == ml_dtypes.bfloat16
    assert as_array(fresh.kernel).tobytes() == as_array(by_keras).tobytes()
    assert as_array(fresh.kernel).astype("float32").tolist() != as_array(trained.kernel).tolist()


def test_a_smaller_type_is_refused_where_the_run_has_to_be_the_same():
    state = component_state(built(keras.layers.Dense(2)))
    with pytest.raises(CheckpointMismatchError, match=r"kernel: expected bfloat16 \(1, 2\), found float32 \(1, 2\)"):
        load_component_state(built(keras.layers.Dense(2, dtype="bfloat16")), state, "model", same_dtypes=True)


def test_what_is_restored_shares_no_memory_with_the_checkpoint(through_a_file):
    trained, fresh = make_classifier(), make_classifier()
    checkpoint = through_a_file(model=trained)
    checkpoint.restore(model=fresh)
    for array in checkpoint.components["model"].values():
        array[...] = 0
    assert arrays_of(trained) == arrays_of(fresh)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: make_classifier(width=5), r"dense\.kernel: expected float32 \(3, 4\), found float32 \(5, 4\)"),
        (lambda: make_classifier("float16"), r"batch_normalization\.gamma: expected float32 \(4,\), found nothing"),
        (lambda: built(keras.layers.Dense(1)), r"- kernel: expected nothing, found float32 \(1, 1\)"),
    ],
)
def test_what_does_not_fit_changes_nothing(through_a_file, make, problem):
    model = make_classifier()
    before = arrays_of(model)
    with pytest.raises(CheckpointMismatchError, match=problem):
        through_a_file(model=make()).restore(model=model)
    assert arrays_of(model) == before


def test_other_kinds_of_numbers_do_not_fit():
    layer = built(keras.layers.Dense(2))
    state = component_state(layer) | {"kernel": np.ones((1, 2), np.int32)}
    with pytest.raises(CheckpointMismatchError, match=r"kernel: expected float32 \(1, 2\), found int32 \(1, 2\)"):
        load_component_state(layer, state, "model")


def test_a_model_without_weights_has_to_be_built_first(through_a_file):
    checkpoint = through_a_file(model=make_classifier())
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.Dense(2)])
    with pytest.raises(CheckpointMismatchError, match=r"'model' isn't built yet.*call it once on a batch"):
        checkpoint.restore(model=model)
    with pytest.raises(StateError, match="has no weights yet: call it once on data"):
        component_state(model)
    model(np.zeros((1, 3), "float32"))
    checkpoint.restore(model=model)
    assert component_state(model)["dense.kernel"].tolist() == checkpoint.components["model"]["dense.kernel"].tolist()


def test_layers_without_weights_need_no_call(through_a_file):
    class WithSpare(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.spare = keras.layers.Dense(3)  # never called

        def build(self, shape):
            self.dense.build(shape)

        def call(self, inputs):
            return self.dense(inputs)

    trained, fresh = WithSpare(), WithSpare()
    trained(np.zeros((1, 3), "float32"))
    fresh(np.zeros((1, 3), "float32"))
    through_a_file(model=trained).restore(model=fresh)
    assert arrays_of(trained) == arrays_of(fresh)


def test_what_is_no_layer_is_refused(through_a_file):
    with pytest.raises(StateError, match="must be a Keras layer or model"):
        component_state([1])
    with pytest.raises(ConfigurationError, match="'model' must be a Keras layer or model"):
        through_a_file(model=make_classifier()).restore(model=None)


def test_a_checkpoint_of_pytorch_is_refused(tmp_path):
    path = tmp_path / "best.safetensors"
    checkpoints.save(path, model_checkpoint_state("pytorch", {"model": {"weight": np.ones(1)}}, {}, Logs(), 1, 0))
    with pytest.raises(CheckpointMismatchError, match=r"for PyTorch; it can't be restored into one for Keras"):
        load_model_checkpoint(path).restore(model=make_classifier())
