"""The same classifier on Keras, for TensorFlow and JAX."""

from types import SimpleNamespace

import keras
from keras import layers, ops


class TrainModel(keras.Model):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        images, labels = batch_data
        logits = self.classifier(images)
        return self.loss(labels, logits), ops.shape(labels)[0], logits


def make_model(seed=0, hidden=128, dropout=0.2, lr=1e-2):
    keras.utils.set_random_seed(seed)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Flatten(),
            layers.Dense(hidden, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(10),
        ]
    )
    return SimpleNamespace(
        classifier=classifier,
        training_model=TrainModel(classifier),
        optimizer=keras.optimizers.AdamW(lr, weight_decay=0.01),
    )
