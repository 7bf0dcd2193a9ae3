"""mlpug on TensorFlow, trained by Keras 3: ``import mlpug.tensorflow as mlp``."""

from mlpug_keras import host

from mlpug import errors, evaluation, logging, scheduler_funcs

host.use("tensorflow")  # before anything else of mlpug_keras imports Keras

from mlpug_keras import callbacks, trainers  # noqa: E402
from mlpug_keras.components import load_model_checkpoint  # noqa: E402

__all__ = ["callbacks", "errors", "evaluation", "load_model_checkpoint", "logging", "scheduler_funcs", "trainers"]
