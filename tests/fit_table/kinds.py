"""Data as Python, numpy and Keras have it, in each form that ``fit`` takes, and how it is validated."""

import itertools
import random

import keras
import numpy as np
import scipy.sparse
from compiled_models import BATCH_SIZE, arrays, batches
from fit_table.runs import Kind


def of_layers(*first, **options):
    """A small model that draws numbers and has an optimizer with a state: there are many to be compiled."""
    model = keras.Sequential([*first, keras.layers.Dropout(0.3), keras.layers.Dense(3)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{"metrics": ["accuracy"], **options},
    )
    return model


def dense(**options):
    """Makers of it, by whether it is built."""
    return {True: lambda: of_layers(keras.Input((5,)), **options), False: lambda: of_layers(**options)}


DENSE, WEIGHTED = dense(), dense(weighted_metrics=["accuracy"])
OF_BATCHES = {"batch_size": BATCH_SIZE}
IN_ORDER = {"shuffle": False}
CLASS_WEIGHT = {0: 1.0, 1: 3.0, 2: 0.5}


class Batches(keras.utils.PyDataset):
    """Four batches, which change with each epoch where they are shuffled: in place, by `draw`, in one of the hooks."""

    def __init__(self, draw=None, at_begin=False, endless=False, **options):
        super().__init__(**options)
        self.draw, self.at_begin, self.endless = draw, at_begin, endless
        self.order = list(range(len(batches())))
        self.num_epochs = 0

    @property
    def num_batches(self):
        return None if self.endless else len(self.order)

    def __getitem__(self, index):
        x, y = batches()[self.order[index % len(self.order)]]
        return x + np.float32(0.01 * self.num_epochs), y

    def on_epoch_begin(self):
        if self.draw is not None and self.at_begin:
            self.draw.shuffle(self.order)

    def on_epoch_end(self):
        self.num_epochs += self.draw is not None
        if self.draw is not None and not self.at_begin:
            self.draw.shuffle(self.order)


def with_sample_weights():
    return (*arrays(), np.linspace(0.2, 2, len(arrays()[0]), dtype="float32"))


def endless():
    yield from itertools.cycle(batches())


def finite():
    yield from batches()


def sparse():
    x, y = arrays()
    return scipy.sparse.csr_matrix(np.where(x > 0, x, 0)), y


def sparse_batches():
    while True:
        for x, y in batches():
            yield scipy.sparse.coo_matrix(np.where(x > 0, x, 0)), y


ALWAYS = (3, 3, 3)
AND_REST = (3, 1, 3)  # the second epoch has what the first one has left of four batches
ENDLESS = {"make": DENSE, "options": IN_ORDER, "steps": 3, "lengths": ALWAYS}
GENERATOR = "The training dataset is a generator, which can't be read again from its start"
KINDS = {
    "arrays": Kind(arrays, DENSE, OF_BATCHES),
    "arrays in order": Kind(arrays, DENSE, {**OF_BATCHES, **IN_ORDER}),
    "arrays shuffled in batches": Kind(arrays, DENSE, {**OF_BATCHES, "shuffle": "batch"}),
    "arrays, class weights": Kind(arrays, WEIGHTED, {**OF_BATCHES, "class_weight": CLASS_WEIGHT}),
    "arrays, sample weights": Kind(with_sample_weights, WEIGHTED, OF_BATCHES),
    "arrays in one batch": Kind(arrays, DENSE, lengths=(1, 1, 1)),
    "arrays, 3 steps": Kind(arrays, DENSE, OF_BATCHES, steps=3, lengths=AND_REST),
    "PyDataset": Kind(Batches, DENSE),
    "PyDataset in order": Kind(Batches, DENSE, IN_ORDER),
    "PyDataset, class weights": Kind(Batches, WEIGHTED, {"class_weight": CLASS_WEIGHT}),
    "PyDataset shuffled at an epoch's end": Kind(lambda: Batches(np.random), DENSE, IN_ORDER),
    "PyDataset shuffled at an epoch's begin": Kind(lambda: Batches(random, True), DENSE),
    "PyDataset with a generator of its own": Kind(lambda: Batches(np.random.default_rng(3)), DENSE),
    "PyDataset, 0 workers": Kind(lambda: Batches(np.random, workers=0), DENSE),
    "PyDataset, 4 workers": Kind(lambda: Batches(workers=4), DENSE),
    "PyDataset, 4 workers, shuffled at an epoch's end": Kind(lambda: Batches(np.random, workers=4), DENSE),
    "PyDataset, 4 workers, in order": Kind(lambda: Batches(workers=4), DENSE, IN_ORDER),
    "PyDataset, 3 steps": Kind(Batches, DENSE, steps=3, lengths=AND_REST),
    "endless PyDataset": Kind(lambda: Batches(endless=True), **ENDLESS),
    "endless PyDataset, 4 workers": Kind(
        lambda: Batches(endless=True, workers=4), DENSE, IN_ORDER, steps=3, lengths=ALWAYS
    ),
    "endless generator": Kind(endless, **ENDLESS, resumed_warns=GENERATOR),
    "generator of one epoch": Kind(finite, DENSE, IN_ORDER, lengths=(4,), resumed_warns=GENERATOR),
    "sparse arrays": Kind(sparse, DENSE, OF_BATCHES),
    "generator of sparse batches": Kind(
        sparse_batches, DENSE, IN_ORDER, steps=3, lengths=ALWAYS, resumed_warns=GENERATOR
    ),
}


def same_batch():
    """How far TensorFlow reads ahead is up to its speed: each batch is the same."""
    yield from itertools.repeat(batches(9)[0])


VALIDATIONS = {
    "not validated": dict,
    "by arrays": lambda: {"validation_data": arrays(9, seed=1), "validation_batch_size": 4},
    "by arrays with weights": lambda: {"validation_data": (*arrays(9, seed=1), np.linspace(0, 1, 9))},
    "each second epoch": lambda: {"validation_data": arrays(9, seed=1), "validation_freq": 2},
    "after epochs 1 and 3": lambda: {"validation_data": arrays(9, seed=1), "validation_freq": [1, 3]},
    "by a PyDataset": lambda: {"validation_data": Batches()},
    "by a PyDataset that shuffles itself": lambda: {"validation_data": Batches(np.random), "validation_steps": 2},
    "by a PyDataset, 4 workers": lambda: {"validation_data": Batches(workers=4)},
    "by a generator": lambda: {"validation_data": same_batch(), "validation_steps": 2},
}
# Only of arrays a part can be taken.
SPLIT = {"by a part of the data": lambda: {"validation_split": 0.1}}
