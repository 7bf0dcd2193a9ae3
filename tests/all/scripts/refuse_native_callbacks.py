"""Give callbacks of every library to a manager of one backend; print what it says of each as JSON."""

import json
import sys

import linear  # isort: skip - first, as it says on what Keras runs

import keras
import pytorch_lightning
from linear import mlp

from mlpug.errors import ConfigurationError

json.load(sys.stdin)


class Own(keras.callbacks.EarlyStopping):
    """One of the user's own is Keras's all the same."""


CALLBACKS = {
    "keras": keras.callbacks.EarlyStopping("loss"),
    "keras, the user's own": Own("loss"),
    "lightning": pytorch_lightning.callbacks.Timer(),
    "neither": object(),
}


def said_of(callback):
    try:
        mlp.trainers.TrainingManager(linear.new_trainer(), [1], callbacks=[callback])
    except ConfigurationError as error:
        return str(error)
    return None


print(json.dumps({name: said_of(callback) for name, callback in CALLBACKS.items()}))
