"""Train the linear model on each kind of dataset with each nesting; print the losses of the batches as JSON."""

import itertools
import json
import sys

import linear  # isort: skip - first, as it says on what Keras runs

import keras
import numpy as np
import tensorflow as tf
import torch

SIZE = 8


def nested(nesting, x, y, weight):
    return {
        "tuple": (x, y, weight),
        "dict": {"x": x, "y": y, "weight": weight},
        "nested": {"inputs": {"x": x}, "targets": (y, weight)},
    }[nesting]


def batches_of(samples, nesting):
    starts = range(0, len(samples[0]), SIZE)
    return [nested(nesting, *(array[start : start + SIZE] for array in samples)) for start in starts]


class Samples(torch.utils.data.Dataset):
    def __init__(self, samples, nesting):
        self.samples, self.nesting = samples, nesting

    def __len__(self):
        return len(self.samples[0])

    def __getitem__(self, index):
        return nested(self.nesting, *(array[index] for array in self.samples))


class Batches(keras.utils.PyDataset):
    """As in Keras's documentation: slices, which never raise an IndexError."""

    def __init__(self, samples, nesting):
        super().__init__()
        self.samples, self.nesting = samples, nesting

    def __len__(self):
        return -(-len(self.samples[0]) // SIZE)

    def __getitem__(self, index):
        start = index * SIZE
        return nested(self.nesting, *(array[start : start + SIZE] for array in self.samples))


DATASETS = {
    "tf.data": lambda samples, nesting: tf.data.Dataset.from_tensor_slices(nested(nesting, *samples)).batch(SIZE),
    "DataLoader": lambda samples, nesting: torch.utils.data.DataLoader(Samples(samples, nesting), batch_size=SIZE),
    "PyDataset": Batches,
    "list": batches_of,
    "generator": lambda samples, nesting: (batch for batch in batches_of(samples, nesting)),
    "endless": lambda samples, nesting: itertools.cycle(batches_of(samples, nesting)),
}
ARGUMENTS = {"generator": {}, "endless": {"num_epochs": 2, "num_batches_per_epoch": 4}}

samples = [np.asarray(array, "float32") for array in json.load(sys.stdin)]
losses = {}
for kind, make in DATASETS.items():
    for nesting in ("tuple", "dict", "nested"):
        try:
            dataset, arguments = make(samples, nesting), ARGUMENTS.get(kind, {"num_epochs": 2})
            losses[f"{kind} {nesting}"] = linear.losses_of(linear.new_trainer(), dataset, **arguments)
        except Exception as error:  # noqa: BLE001 - one kind that can't be trained on is told beside the others
            losses[f"{kind} {nesting}"] = repr(error)
print(json.dumps(losses))
