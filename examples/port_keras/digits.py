"""A Keras project: the data and the model, which before.py and after.py train."""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

sys.path.append(str(Path(__file__).parents[1]))  # where data.py is
from data import load_digits


class Digits(keras.utils.PyDataset):
    """Batches (images [n, 8, 8, 1], labels [n]), in a new order in each epoch."""

    def __init__(self, images, labels, batch_size=32, shuffle=False):
        super().__init__()
        self.images, self.labels = images[..., None], labels
        self.batch_size = batch_size
        self.random = np.random.default_rng(0) if shuffle else None
        self.order = np.arange(len(labels))

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index):
        samples = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.images[samples], self.labels[samples]

    def on_epoch_begin(self):
        if self.random is not None:
            self.order = self.random.permutation(len(self.labels))


def load_datasets():
    """Return the training, validation and test sets."""
    images, labels, test_images, test_labels = load_digits()
    return (
        Digits(images[:1200], labels[:1200], shuffle=True),
        Digits(images[1200:], labels[1200:]),
        Digits(test_images, test_labels),
    )


def make_model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.BatchNormalization(momentum=0.9),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
