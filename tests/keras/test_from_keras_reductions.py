"""A compiled model in chunks trains as ``fit`` does on the whole batch, whatever its losses divide by."""

import keras
import numpy as np
import pytest
from compiled_models import NativeRun, PortedRun
from keras import layers, ops

from mlpug.errors import ConfigurationError, MlpugWarning

SINGLE = {"rtol": 2e-5, "atol": 2e-6}  # sums of a few single-precision numbers in another order
N, LENGTH, WORDS, KINDS = 22, 5, 9, 3
numbers = np.random.default_rng(2)
FEATURES = numbers.normal(size=(N, 5)).astype("float32")
CLASSES = numbers.integers(0, KINDS, N)
WEIGHTS = np.linspace(0.1, 2, N).astype("float32")
LENGTHS = numbers.integers(1, LENGTH + 1, N)
TOKENS = np.where(np.arange(LENGTH) < LENGTHS[:, None], numbers.integers(1, WORDS, (N, LENGTH)), 0).astype("int32")
TAGS = numbers.integers(0, KINDS, (N, LENGTH))
MEANS = ["sum_over_batch_size", "mean", "mean_with_sample_weight"]
REDUCTIONS = [*MEANS, "sum"]


def crossentropy(reduction):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


def dense(loss, eagerly=False):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.05)),
            layers.Dense(KINDS, activity_regularizer=keras.regularizers.L2(0.02)),
        ]
    )
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"], run_eagerly=eagerly)
    return model


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


def tagger(*losses, weights=None):
    """Outputs by masked tokens, by masked tokens once more, and by sequences; with a regularizer and an `add_loss`."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    hidden = layers.Embedding(WORDS, 4, mask_zero=True)(tokens)
    hidden = layers.Dense(5, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.05))(hidden)
    whole = AddsLoss()(layers.Dense(4)(layers.GlobalAveragePooling1D()(hidden)))
    outputs = [layers.Dense(KINDS, name="a")(hidden), layers.Dense(KINDS, name="b")(hidden)]
    outputs.append(layers.Dense(KINDS, name="c")(whole))
    model = keras.Model(tokens, outputs[0] if len(losses) == 1 else outputs)
    model.compile(keras.optimizers.SGD(0.05), losses[0] if len(losses) == 1 else list(losses), loss_weights=weights)
    return model


def compare(backend, make, data, batch_size=8, sizes=(8, 8, 6), **parts):
    options = {"shuffle": False} | ({} if batch_size is None else {"batch_size": batch_size})
    native = NativeRun(make, data, **options)
    ported = PortedRun(backend.mlp, make, data, **options, **parts).start()
    for one, other in zip(ported.model.get_weights(), native.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, **SINGLE)
    assert [event[:2] for event in ported.logs.seen] == [event[:2] for event in native.logs.seen]
    for (*_, logs), (*_, expected) in zip(ported.logs.seen, native.logs.seen, strict=True):
        assert sorted(logs) == sorted(expected)
        np.testing.assert_allclose([logs[name] for name in expected], list(expected.values()), **SINGLE)
    # What mlpug calls the loss of a batch is that of the whole batch.
    losses = [loss for kind, _, loss, *_ in ported.ours.seen if kind == "batch_end"]
    means = [logs["loss"] for kind, _, logs in native.logs.seen if kind == "batch_end"]
    for epoch in (0, 3):
        each = np.cumsum(np.array(losses[epoch : epoch + 3]) * sizes) / np.cumsum(sizes)
        np.testing.assert_allclose(each, means[epoch : epoch + 3], **SINGLE)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_any_reduction(backend, reduction, with_weights):
    data = (FEATURES, CLASSES, WEIGHTS) if with_weights else (FEATURES, CLASSES)
    compare(backend, lambda: dense(crossentropy(reduction)), lambda: data, batch_chunk_size=3)


@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum"])
def test_eagerly_too(backend, reduction):
    data = (FEATURES, CLASSES, WEIGHTS)
    compare(backend, lambda: dense(crossentropy(reduction), eagerly=True), lambda: data, batch_chunk_size=3)


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
def test_chunks_of_which_some_weigh_nothing(backend, reduction):
    weights = np.where(np.arange(N) % 8 < 3, 0, WEIGHTS).astype("float32")  # the first chunk of each batch
    data = (FEATURES, CLASSES, weights)
    compare(backend, lambda: dense(crossentropy(reduction)), lambda: data, batch_chunk_size=3)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_masked_tokens(backend, reduction, with_weights):
    weights = np.repeat(WEIGHTS[:, None], LENGTH, axis=1) * np.linspace(0.5, 1, LENGTH, dtype="float32")
    data = (TOKENS, TAGS, weights) if with_weights else (TOKENS, TAGS)
    compare(backend, lambda: tagger(crossentropy(reduction)), lambda: data, batch_chunk_size=3)


@pytest.mark.parametrize(
    "reductions",
    [
        ("sum_over_batch_size", "sum", "sum_over_batch_size"),
        ("mean", "mean_with_sample_weight", "mean_with_sample_weight"),
        ("sum", "mean", "sum"),
    ],
    ids=str,
)
def test_each_output_has_its_own(backend, reductions):
    targets = [TAGS, TAGS[:, ::-1].copy(), CLASSES]
    compare(
        backend,
        lambda: tagger(*map(crossentropy, reductions), weights=[1.0, 0.3, 2.0]),
        lambda: Whole(TOKENS, targets, [np.ones((N, LENGTH), "float32") * WEIGHTS[:, None]] * 2 + [WEIGHTS]),
        batch_size=None,
        sizes=(8, 8, 8),
        batch_chunk_size=3,
    )


class Whole(keras.utils.PyDataset):
    """Batches of several targets, each with weights of its own."""

    def __init__(self, x, targets, weights):
        super().__init__()
        self.x, self.targets, self.weights = x, targets, weights

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(7 * index, 7 * index + 8)  # of one length: Keras on TensorFlow counts others as one sample
        return self.x[part], tuple(y[part] for y in self.targets), tuple(w[part] for w in self.weights)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_of_the_dataset_that_make_one(backend, reduction):
    def batches(size):
        return [(TOKENS[start : start + size], TAGS[start : start + size]) for start in range(0, N, size)]

    class Given(keras.utils.PyDataset):
        def __len__(self):
            return len(batches(8))

        def __getitem__(self, index):
            return batches(8)[index]

    native = NativeRun(lambda: tagger(crossentropy(reduction)), Given, shuffle=False)
    ported = PortedRun(
        backend.mlp, lambda: tagger(crossentropy(reduction)), lambda: batches(4), gradient_accumulation_steps=2
    ).start()
    for one, other in zip(ported.model.get_weights(), native.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, **SINGLE)


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
def test_weights_of_classes(backend, reduction):
    weights = {0: 0.3, 1: 1.0, 2: 2.5}
    options = {"batch_size": 8, "shuffle": False, "class_weight": weights}
    native = NativeRun(lambda: dense(crossentropy(reduction)), lambda: (FEATURES, CLASSES), **options)
    ported = PortedRun(
        backend.mlp, lambda: dense(crossentropy(reduction)), lambda: (FEATURES, CLASSES), batch_chunk_size=3, **options
    ).start()
    for one, other in zip(ported.model.get_weights(), native.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, **SINGLE)


def test_one_chunk_changes_nothing(backend):
    data = (TOKENS, TAGS, np.ones((N, LENGTH), "float32") * WEIGHTS[:, None])
    whole, one = (
        PortedRun(
            backend.mlp,
            lambda: tagger(crossentropy("mean_with_sample_weight")),
            lambda: data,
            batch_size=8,
            shuffle=False,
            batch_chunk_size=size,
        ).start()
        for size in (8, 100)
    )
    for first, second in zip(whole.model.get_weights(), one.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


class OwnCall(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.sum(ops.square(y_pred))


class OwnComputeLoss(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight, training) + ops.mean(ops.square(y_pred))


REFUSED = {
    "None": (crossentropy(None), r'reduction=None, .*give it reduction="sum"'),
    "none": (crossentropy("none"), "reduction=None"),
    "of one output": ([crossentropy("sum"), crossentropy(None)], "reduction=None"),
    "own call": (OwnCall(), "OwnCall has a __call__ of its own.*write `call`"),
    "dice": (keras.losses.Dice(), "'dice' compares the samples"),
    "dice by name": ("dice", "'dice' compares the samples"),
    "tversky": ({"a": keras.losses.Tversky(axis=(0, 1))}, "'tversky' compares the samples"),
    "circle": (keras.losses.Circle(), "'circle' compares the samples"),
}


@pytest.mark.parametrize("parts", [{"batch_chunk_size": 2}, {"gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("case", REFUSED)
def test_a_loss_that_cannot_be_in_chunks_is_refused_when_the_trainer_is_made(backend, case, parts):
    loss, message = REFUSED[case]
    with pytest.raises(ConfigurationError, match=message):
        backend.mlp.trainers.DefaultTrainer.from_keras(dense(loss), **parts)
    backend.mlp.trainers.DefaultTrainer.from_keras(dense(loss))


@pytest.mark.parametrize("loss", ["mse", "crossentropy", keras.losses.Dice(axis=-1), keras.losses.huber])
def test_other_losses_are_not_refused(backend, loss):
    backend.mlp.trainers.DefaultTrainer.from_keras(dense(loss), batch_chunk_size=2)


def one_number(y_true, y_pred):
    return ops.mean(keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True))


def test_a_loss_of_one_number_is_taken_for_a_mean_and_says_so(backend):
    with pytest.warns(
        MlpugWarning, match="'one_number' gives one number for all samples.*taken for their mean"
    ) as told:
        compare(backend, lambda: dense(one_number), lambda: (FEATURES, CLASSES), batch_chunk_size=3)
    assert len([each for each in told if issubclass(each.category, MlpugWarning)]) == 1


def test_a_loss_of_one_number_with_weights_is_an_error(backend):
    run = PortedRun(
        backend.mlp, lambda: dense(one_number), lambda: (FEATURES, CLASSES, WEIGHTS), batch_size=8, batch_chunk_size=3
    )
    with pytest.raises(ConfigurationError, match=r"'one_number' gives one number.*return a value for each sample"):
        run.start()


def test_a_compute_loss_of_ones_own_is_taken_for_a_mean_and_says_so(backend):
    def make():
        model = OwnComputeLoss([keras.Input((5,)), layers.Dense(KINDS)])
        model.compile(keras.optimizers.SGD(0.05), crossentropy("sum_over_batch_size"))
        return model

    with pytest.warns(MlpugWarning, match="OwnComputeLoss has a compute_loss of its own.*taken for a mean"):
        compare(backend, make, lambda: (FEATURES, CLASSES), batch_chunk_size=3)
