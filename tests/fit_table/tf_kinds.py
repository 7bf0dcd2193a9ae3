"""``tf.data`` in each form that ``fit`` takes, and batches that only TensorFlow has: ragged, sparse, of text."""

import keras
import numpy as np
import tensorflow as tf
from compiled_models import BATCH_SIZE, NUM_SAMPLES, arrays
from fit_table.kinds import ALWAYS, AND_REST, CLASS_WEIGHT, DENSE, IN_ORDER, OF_BATCHES, WEIGHTED, with_sample_weights
from fit_table.runs import Kind

LETTERS = list("abcd")


def samples():
    return tf.data.Dataset.from_tensor_slices(arrays())


def in_order():
    return samples().batch(BATCH_SIZE)


def shuffled(**options):
    return samples().shuffle(NUM_SAMPLES, **options).batch(BATCH_SIZE)


def with_weights():
    return tf.data.Dataset.from_tensor_slices(with_sample_weights()).shuffle(NUM_SAMPLES, seed=3).batch(BATCH_SIZE)


def filtered():
    return samples().filter(lambda x, y: True).shuffle(NUM_SAMPLES, seed=3).batch(BATCH_SIZE)


def repeated():
    return shuffled(seed=3).repeat()


def noisy():
    """By a layer that has a seed of its own."""
    layer = keras.layers.RandomFlip("horizontal", seed=1)

    def flipped(x, y):
        return tf.reshape(layer(tf.reshape(x, (-1, 1, 5, 1)), training=True), (-1, 5)), y

    return shuffled(seed=3).map(flipped)


def generated():
    """By a generator of TensorFlow's."""
    generator = tf.random.Generator.from_seed(3)
    return in_order().map(lambda x, y: (x + generator.normal(tf.shape(x)), y))


def read_ahead():
    return shuffled(seed=3).prefetch(2)


def from_python():
    def give():
        yield from zip(*arrays(), strict=True)

    signature = (tf.TensorSpec((5,), tf.float32), tf.TensorSpec((), tf.int32))
    return tf.data.Dataset.from_generator(give, output_signature=signature).batch(BATCH_SIZE)


def ids():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 20, generator.integers(1, 6)).tolist() for _ in range(NUM_SAMPLES)]


def ragged():
    return tf.data.Dataset.from_tensor_slices((tf.ragged.constant(ids()), arrays()[1])).batch(BATCH_SIZE)


def ragged_filtered():
    return ragged().filter(lambda x, y: True)


def sparse():
    return shuffled(seed=3).map(lambda x, y: (tf.sparse.from_dense(tf.nn.relu(x)), y))


def sparse_array():
    x, y = arrays()
    return tf.sparse.from_dense(np.where(x > 0, x, 0)), y


def text_array():
    return np.array([LETTERS[row[0] % 4] for row in ids()], dtype=object), arrays()[1]


def text():
    x, y = text_array()
    return tf.data.Dataset.from_tensor_slices((x.astype(str), y)).shuffle(NUM_SAMPLES, seed=3).batch(BATCH_SIZE)


class OfRagged(keras.Model):
    """The mean of what is looked up."""

    def __init__(self):
        super().__init__()
        self.embedding, self.dense = keras.layers.Embedding(20, 4), keras.layers.Dense(3)

    def call(self, x):
        return self.dense(tf.reduce_mean(tf.ragged.map_flat_values(self.embedding, x), axis=1))


class OfSparse(keras.Model):
    """Multiplies what isn't zero."""

    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(5, 3), name="kernel")

    def call(self, x):
        return tf.sparse.sparse_dense_matmul(x, self.kernel)


class OfText(keras.Model):
    """Looks letters up."""

    def __init__(self):
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=LETTERS)
        self.embedding, self.dense = keras.layers.Embedding(20, 4), keras.layers.Dense(3)

    def call(self, x):
        return self.dense(self.embedding(self.lookup(x)))


def of_model(kind, first):
    """Made by whether it has seen a first batch."""

    def make(is_built):
        model = kind()
        if is_built:
            model(first())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=False)
        return model

    return {True: lambda: make(True), False: lambda: make(False)}


RAGGED = of_model(OfRagged, lambda: tf.ragged.constant(ids()[:2]))
SPARSE = of_model(OfSparse, lambda: tf.sparse.from_dense(arrays()[0]))
TEXT = of_model(OfText, lambda: tf.constant(LETTERS))

EACH = (4, 4, 4)
# The seeds of a tf.data.Dataset are made of TensorFlow's, where the script makes it.
TF_KINDS = {
    name: Kind(data, make, {**IN_ORDER, **options}, steps, lengths, seed_stays=True)
    for name, data, make, options, steps, lengths in (
        ("tf.data in order", in_order, DENSE, {}, None, EACH),
        ("tf.data, shuffled with a seed", lambda: shuffled(seed=3), DENSE, {}, None, EACH),
        ("tf.data, shuffled without a seed", shuffled, DENSE, {}, None, EACH),
        ("tf.data, shuffled once", lambda: shuffled(seed=3, reshuffle_each_iteration=False), DENSE, {}, None, EACH),
        ("tf.data, class weights", lambda: shuffled(seed=3), WEIGHTED, {"class_weight": CLASS_WEIGHT}, None, EACH),
        ("tf.data, sample weights", with_weights, WEIGHTED, {}, None, EACH),
        ("tf.data, filtered", filtered, DENSE, {}, None, EACH),
        ("tf.data, repeated", repeated, DENSE, {}, 3, ALWAYS),
        ("tf.data, 3 steps", lambda: shuffled(seed=3), DENSE, {}, 3, AND_REST),
        ("tf.data, as many steps as batches", lambda: shuffled(seed=3), DENSE, {}, 4, EACH),
        ("tf.data, filtered, 3 steps", filtered, DENSE, {}, 3, AND_REST),
        ("tf.data, augmented by a layer", noisy, DENSE, {}, None, EACH),
        ("tf.data, augmented by a generator", generated, DENSE, {}, None, EACH),
        ("tf.data, read ahead", read_ahead, DENSE, {}, None, EACH),
        ("tf.data from Python", from_python, DENSE, {}, None, EACH),
    )
}
TENSORFLOW_KINDS = {
    name: Kind(data, make, options, seed_stays=True)
    for name, data, make, options in (
        ("ragged", ragged, RAGGED, IN_ORDER),
        ("ragged, filtered", ragged_filtered, RAGGED, IN_ORDER),
        ("sparse", sparse, SPARSE, IN_ORDER),
        ("sparse array", sparse_array, SPARSE, {**OF_BATCHES, **IN_ORDER}),
        ("text", text, TEXT, IN_ORDER),
        ("text array", text_array, TEXT, OF_BATCHES),
    )
}
TF_VALIDATIONS = {
    "not validated": dict,
    "by arrays": lambda: {"validation_data": arrays(9, seed=1)},
    "by tf.data": lambda: {"validation_data": shuffled(seed=7)},
    "by tf.data, each second epoch": lambda: {"validation_data": shuffled(seed=7), "validation_freq": 2},
    "by tf.data, 2 steps": lambda: {"validation_data": shuffled(seed=7), "validation_steps": 2},
    "by filtered tf.data": lambda: {"validation_data": filtered()},
    # How far ahead it is read is up to its speed: so that is in one order, which doesn't start again.
    "by repeated tf.data": lambda: {
        "validation_data": samples().repeat().shuffle(NUM_SAMPLES, seed=7).batch(BATCH_SIZE),
        "validation_steps": 3,
    },
}
