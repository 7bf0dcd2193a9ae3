"""Arguments of ``fit`` and of mlpug that from_keras doesn't take, and where each belongs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlpug.errors import ConfigurationError
from mlpug.suggestions import did_you_mean

_DATA = "pass the data to TrainingManager(trainer, (x, y)), as a tuple with the sample weights behind them"
_PER_EPOCH = "pass TrainingManager(num_batches_per_epoch=...)"
_OF_MANAGER = "it belongs to the TrainingManager"
_COMPILED = "it belongs to model.compile(...), which comes before from_keras(model)"
_STEP = "the model is trained by its own step"
_PRECISION = (
    "it is the dtype policy of the layers: call keras.mixed_precision.set_global_policy before making the model"
)
_LOADING = "it belongs to the keras.utils.PyDataset that gives the batches"
_CURES = {
    "epochs": "pass TrainingManager(num_epochs=...)",
    "callbacks": "pass them to TrainingManager(callbacks=[...]), Keras's own and mlpug's",
    "verbose": "put mlp.callbacks.LogProgress() or keras.callbacks.ProgbarLogger() into TrainingManager(callbacks=...)",
    "initial_epoch": "pass resume_from=... to manager.start_training, which goes on where a checkpoint was",
    "steps_per_epoch": _PER_EPOCH,
    "x": _DATA,
    "y": _DATA,
    "sample_weight": _DATA,
    "training_dataset": _DATA,
    "workers": _LOADING,
    "use_multiprocessing": _LOADING,
    "max_queue_size": _LOADING,
    "num_epochs": _OF_MANAGER,
    "num_batches_per_epoch": _OF_MANAGER,
    "experiment_data": _OF_MANAGER,
    "seed": _OF_MANAGER,
    "on_callback_error": _OF_MANAGER,
    "optimizer": _COMPILED,
    "optimizers": _COMPILED,
    "loss": _COMPILED,
    "metrics": _COMPILED,
    "weighted_metrics": _COMPILED,
    "loss_weights": _COMPILED,
    "run_eagerly": _COMPILED,
    "jit_compile": _COMPILED,
    "eager_mode": "pass model.compile(run_eagerly=...)",
    "compile_kwargs": "pass model.compile(jit_compile=...)",
    "gradient_clip_norm": "pass global_clipnorm=... to the optimizer that the model is compiled with",
    "gradient_clip_value": "pass clipvalue=... to the optimizer that the model is compiled with",
    "on_non_finite": f"{_STEP}. Put keras.callbacks.TerminateOnNaN() into TrainingManager(callbacks=[...])",
    "precision": _PRECISION,
    "use_mixed_precision": _PRECISION,
    "model_components": "the model is the one component, by the name 'model'",
    "trainable_variables": f"{_STEP}, which trains its trainable_variables",
    "batch_data_signature": f"{_STEP}, which takes what fit takes",
}


def refuse_arguments(arguments: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse every argument there is, with where it belongs, or with the one that may have been meant.

    Args:
        arguments: by name, none of which from_keras takes.
        known: those that it does take.

    >>> refuse_arguments({"epochs": 3}, known=[])
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: from_keras doesn't take epochs: pass TrainingManager(num_epochs=...).
    >>> refuse_arguments({"batch_sise": 3}, known=["batch_size"])
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: from_keras doesn't take 'batch_sise'. Did you mean batch_size?
    """
    known = list(known)
    refused = [
        f"doesn't take {name}: {_CURES[name]}." if name in _CURES else f"doesn't take {name!r}.{_guess(name, known)}"
        for name in arguments
    ]
    if refused:
        raise ConfigurationError(f"from_keras {' It '.join(refused)}")


def _guess(name: str, known: list[str]) -> str:
    return did_you_mean(name, [*known, *_CURES]) or f" It takes {', '.join(known)}."
