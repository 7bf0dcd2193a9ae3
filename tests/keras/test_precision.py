"""The words for precision on Keras: what layers compute in, and steps that a loss scaler leaves out."""

import math
from itertools import pairwise

import keras
import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, make_batches
from keras import ops

from mlpug.callbacks import Callback, CheckpointManager, LRSchedulerWrapper
from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager

COMPUTED_IN = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16", "bf16-true": "bfloat16"}
STORED_IN = {"32-true": "float32", "bf16-mixed": "float32", "16-mixed": "float32", "bf16-true": "bfloat16"}


class TrainModel(keras.Model):
    """Batches are (x, y, scale of the loss)."""

    def __init__(self, net):
        super().__init__()
        self.net, self.computed_in = net, set()

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, scale = batch_data
        predictions = self.net(x)
        self.computed_in.add(keras.backend.standardize_dtype(predictions.dtype))
        errors = ops.cast(predictions, "float32")[:, 0] - ops.cast(y, "float32")
        return ops.mean(ops.square(errors)) * ops.cast(scale, "float32")


class Keep(Callback):
    def __init__(self, net, optimizer):
        self.net, self.optimizer = net, optimizer
        self.did_update, self.rates, self.weights = [], [], []

    def on_batch_training_completed(self, batch, logs):
        self.did_update.append(logs.at("training.batch.did_update_model"))
        self.rates.append(logs.at("training_params.batch.lr"))
        self.weights.append([np.asarray(ops.cast(weight, "float32")) for weight in self.net.weights])


def new_net(built=True, dtypes=(None, None)):
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Dense(4, activation="tanh", dtype=dtypes[0]), keras.layers.Dense(1, dtype=dtypes[1])]
    return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers] if built else layers)


def scaled_batches(scales):
    return [
        (x.astype("float32"), y.astype("float32"), np.float32(scale))
        for (x, y), scale in zip(make_batches([6] * len(scales)), scales, strict=True)
    ]


def train(backend, net, batches, callbacks=(), optimizer=None, resume_from=None, **options):
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers=optimizer, model_components=net, eager_mode=backend.eager_mode, **options
    )
    keep, training_model = Keep(net, optimizer), TrainModel(net)
    manager = TrainingManager(trainer, batches, callbacks=[keep, *callbacks])
    trainer.set_training_model(training_model)
    manager.start_training(resume_from)
    return keep, training_model


@pytest.mark.parametrize("precision", COMPUTED_IN)
@pytest.mark.parametrize("built", [True, False], ids=["built", "not built"])
def test_layers_compute_in_what_was_asked_for_and_weights_are_stored_so(backend, precision, built):
    net = new_net(built)
    keep, training_model = train(backend, net, scaled_batches([1, 1]), precision=precision)
    assert training_model.computed_in == {COMPUTED_IN[precision]}
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in net.weights} == {STORED_IN[precision]}
    assert keep.did_update == [True, True]
    assert not np.array_equal(keep.weights[0][0], keep.weights[1][0])


def converted_net(kind):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((NUM_FEATURES,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(4, activation="tanh")(inputs))
    outputs = keras.layers.Dense(1)(hidden)
    return keras.Model(inputs, outputs) if kind == "functional" else keras.Sequential([inputs, *new_net().layers])


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 4}], ids=str)
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_a_built_model_is_converted_to_what_it_would_have_been_made_as(backend, kind, options):
    batches, nets = scaled_batches([1, 1, 1]), []
    for policy, precision in (("float32", "bf16-true"), ("bfloat16", None)):
        first = [np.asarray(weight) for weight in converted_net(kind).weights]
        keras.config.set_dtype_policy(policy)
        try:
            net = converted_net(kind)
        finally:
            keras.config.set_dtype_policy("float32")
        net.set_weights(first)
        net.predict(batches[0][0], verbose=0)  # what it compiles has the weights of before
        trained, training_model = train(
            backend, net, batches, optimizer=keras.optimizers.SGD(0.05, momentum=0.9), precision=precision, **options
        )
        assert training_model.computed_in == {"bfloat16"}
        assert {keras.backend.standardize_dtype(weight.dtype) for weight in net.weights} == {"bfloat16"}
        assert not np.array_equal(trained.weights[0][0], trained.weights[-1][0])
        nets.append(net)
    for one, other in zip(*(net.weights for net in nets), strict=True):
        np.testing.assert_array_equal(*(np.asarray(ops.cast(each, "float32")) for each in (one, other)))
    predictions = [np.asarray(net.predict(batches[0][0], verbose=0)).astype("float32") for net in nets]
    np.testing.assert_array_equal(*predictions)


def test_weights_that_a_layer_has_in_a_type_of_their_own_keep_it(backend):
    class Scaled(keras.layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.scale = self.add_weight(shape=(), initializer="ones", dtype="float16", trainable=False)

    net = keras.Sequential([keras.Input((NUM_FEATURES,)), Scaled(1)])
    train(backend, net, scaled_batches([1]), precision="bf16-true")
    found = {weight.name: keras.backend.standardize_dtype(weight.dtype) for weight in net.weights}
    assert sorted(found.values()) == ["bfloat16", "bfloat16", "float16"]


def test_weights_that_an_optimizer_was_built_on_are_not_converted(backend):
    net, optimizer = new_net(), keras.optimizers.Adam()
    optimizer.build(net.trainable_variables)
    with pytest.raises(
        ConfigurationError, match=r"kernel is there already as float32, and the optimizer 'optimizer' was built on it"
    ):
        train(backend, net, scaled_batches([1]), optimizer=optimizer, precision="bf16-true")
    assert {weight.dtype for weight in net.weights} == {"float32"}


def test_a_converted_model_resumes_its_own_checkpoint(backend, tmp_path):
    batches, path = scaled_batches([1, 1]), tmp_path / "first-training-checkpoint.safetensors"
    checkpoints = CheckpointManager(tmp_path, "first", metric_to_monitor=None, create_checkpoint_every=2)
    nets = [converted_net("functional") for _ in range(3)]
    train(backend, nets[0], batches * 2, precision="bf16-true")
    train(backend, nets[1], batches, [checkpoints], precision="bf16-true")
    trainer = backend.mlp.trainers.DefaultTrainer(
        keras.optimizers.SGD(0.05), nets[2], eager_mode=backend.eager_mode, precision="bf16-true"
    )
    trainer.set_training_model(TrainModel(nets[2]))
    TrainingManager(trainer, batches, num_epochs=2).start_training(path)
    for one, other in zip(nets[0].weights, nets[2].weights, strict=True):
        np.testing.assert_array_equal(*(np.asarray(ops.cast(each, "float32")) for each in (one, other)))


def test_a_model_that_was_made_in_another_policy_is_converted(backend):
    net = new_net(dtypes=("mixed_float16", "mixed_float16"))
    _, training_model = train(backend, net, scaled_batches([1]), precision="bf16-mixed")
    assert training_model.computed_in == {"bfloat16"}


def test_layers_that_differ_where_some_are_as_asked_for_stay_as_they_were_made(backend):
    net = new_net(dtypes=("mixed_bfloat16", "float32"))
    _, training_model = train(backend, net, scaled_batches([1]), precision="bf16-mixed")
    assert training_model.computed_in == {"float32"}
    assert net.layers[0].compute_dtype == "bfloat16"


def test_layers_that_differ_where_none_is_as_asked_for_are_refused(backend):
    net = new_net(dtypes=("mixed_bfloat16", "float32"))
    with pytest.raises(ConfigurationError, match="compute in float32, mixed_bfloat16, and none in mixed_float16"):
        train(backend, net, scaled_batches([1]), precision="16-mixed")


def test_float16_weights_move_as_float32_ones_but_for_what_is_rounded(backend):
    batches = scaled_batches([1] * 4)
    precise, _ = train(backend, new_net(), batches)
    mixed, _ = train(backend, new_net(), batches, precision="16-mixed")
    start = np.asarray(new_net().weights[0])
    for one, other in zip(precise.weights[-1], mixed.weights[-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2**-9 * 4 * abs(start).max())
    assert not np.array_equal(precise.weights[-1][0], mixed.weights[-1][0])


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 4}, {"gradient_clip_norm": 1.0}], ids=str)
def test_an_overflow_skips_one_update_and_the_schedule_waits(backend, options):
    net = new_net()
    schedule = LRSchedulerWrapper(lambda step: 1 / (1 + step))
    batches = scaled_batches([0.1, 0.1, 1e6, 0.1, 0.1])
    keep, _ = train(backend, net, batches, [schedule], precision="16-mixed", **options)
    assert keep.did_update == [True, True, False, True, True]
    assert keep.rates == pytest.approx([0.05, 0.05 / 2, 0.05 / 3, 0.05 / 3, 0.05 / 4])
    moved = [not np.array_equal(before[0], after[0]) for before, after in pairwise(keep.weights)]
    assert moved == [True, False, True, True]


def test_gradients_are_clipped_without_the_scale_of_the_loss(backend):
    batches, start = scaled_batches([0.1, 0.1]), [np.asarray(weight) for weight in new_net().weights]
    moved = []
    for precision in ("32-true", "16-mixed"):
        keep, _ = train(backend, new_net(), batches, gradient_clip_norm=0.01, precision=precision)
        assert keep.did_update == [True, True]
        moved.append(
            math.sqrt(sum(np.sum((after - before) ** 2) for before, after in zip(start, keep.weights[0], strict=True)))
        )
    assert moved == pytest.approx([0.05 * 0.01] * 2, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 4}], ids=str)
def test_of_two_optimizers_one_may_overflow_and_the_other_steps(backend, options):
    class TwoLosses(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = new_net(), new_net()

        def call(self, batch_data, evaluate_settings, inference_mode=None):
            x, y, scale = batch_data
            errors = [ops.cast(net(x), "float32")[:, 0] - y for net in (self.first, self.second)]
            first, second = (0.1 * ops.mean(ops.square(each)) for each in errors)
            return {"first": first * scale, "second": second}, ops.shape(y)[0]

    model = TwoLosses()
    parts = {"first": model.first, "second": model.second}
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers={"first": keras.optimizers.SGD(0.05), "second": keras.optimizers.SGD(0.05)},
        model_components=parts,
        trainable_variables=parts,
        eager_mode=backend.eager_mode,
        precision="16-mixed",
        **options,
    )
    keeps = [Keep(part, None) for part in parts.values()]
    manager = TrainingManager(trainer, scaled_batches([1, 1e7, 1]), callbacks=keeps)
    trainer.set_training_model(model)
    manager.start_training()
    moved = [[not np.array_equal(one[0], other[0]) for one, other in pairwise(keep.weights)] for keep in keeps]
    assert moved == [[False, True], [True, True]]
    assert keeps[0].did_update == [True, True, True]  # weights moved, though not all


def test_a_resumed_run_goes_on_with_the_scale_of_the_loss(backend, tmp_path):
    batches = scaled_batches([1, 1e7, 1, 1])

    def checkpoints(name):
        return CheckpointManager(tmp_path, name, metric_to_monitor=None, create_checkpoint_every=2)

    whole_net = new_net()
    train(backend, whole_net, batches, precision="16-mixed")
    train(backend, new_net(), batches[:2], [checkpoints("first")], precision="16-mixed")
    net = new_net()
    optimizer = keras.optimizers.SGD(0.05)
    path = tmp_path / "first-training-checkpoint.safetensors"
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers=optimizer, model_components=net, eager_mode=backend.eager_mode, precision="16-mixed"
    )
    manager = TrainingManager(trainer, batches[2:], num_epochs=2)
    trainer.set_training_model(TrainModel(net))
    manager.start_training(path)
    for one, other in zip(whole_net.weights, net.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_float16_model_has_its_loss_scaled_though_nobody_asked(backend):
    net = new_net(dtypes=("mixed_float16", "mixed_float16"))
    keep, _ = train(backend, net, scaled_batches([1, 1e7, 1]))
    assert keep.did_update == [True, False, True]


def test_where_nothing_counts_no_update_is_made_under_a_scale_either(backend):
    class Counting(TrainModel):
        def call(self, batch_data, evaluate_settings, inference_mode=None):
            x, y, counts = batch_data
            errors = ops.cast(self.net(x), "float32")[:, 0] - y
            return ops.sum(counts * ops.square(errors)) / ops.sum(counts), ops.sum(counts)

    batches = [
        (x, y, np.full(6, count, "float32"))
        for (x, y, _), count in zip(scaled_batches([1] * 3), (1, 0, 1), strict=True)
    ]
    net, optimizer = new_net(), keras.optimizers.SGD(0.01)
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers=optimizer,
        model_components=net,
        eager_mode=backend.eager_mode,
        precision="16-mixed",
        batch_chunk_size=4,
    )
    keep = Keep(net, optimizer)
    manager = TrainingManager(trainer, batches, callbacks=[keep])
    trainer.set_training_model(Counting(net))
    manager.start_training()
    assert keep.did_update[1] is False
    assert all(np.array_equal(before, after) for before, after in zip(*keep.weights[:2], strict=True))
    assert np.isfinite(keep.weights[2][0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "16"}, 'precision must be one of "32-true", "bf16-mixed", "16-mixed", "bf16-true", not \'16\''),
        ({"precision": 32}, "precision must be one of .*, not 32"),
        ({"precision": "32-true", "use_mixed_precision": True}, "give it or precision, not both"),
    ],
)
def test_a_word_that_nobody_knows_is_refused(backend, options, message):
    with pytest.raises(ConfigurationError, match=message):
        backend.mlp.trainers.DefaultTrainer(optimizers=keras.optimizers.SGD(), **options)


def test_mixed_precision_without_a_gpu_is_bfloat16(backend):
    _, training_model = train(backend, new_net(), scaled_batches([1]), use_mixed_precision=True)
    assert training_model.computed_in == {"bfloat16"}
