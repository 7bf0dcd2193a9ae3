"""Makes the trainer of a compiled `keras.Model`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.validation import checked_count
from mlpug_keras.compiled_model import metric_names, overrides, own_train_function
from mlpug_keras.devices import check_one_device
from mlpug_keras.fit_data import FitOptions
from mlpug_keras.fit_validation import Validation
from mlpug_keras.ported import PortedAdapter
from mlpug_keras.targets import check_targets

# What a chunked step does in their place.
_OWN_STEPS = ("train_step", "make_train_function")
_OF_WHOLE_BATCH = (keras.losses.circle, keras.losses.dice, keras.losses.tversky)
_CHOSEN_BY_SHAPE = ("crossentropy", "ce")  # by ``compile``: a mean of any kind


def ported_adapter(model: Any, options: FitOptions, validation: Validation, has_chunks: bool) -> PortedAdapter:
    """The adapter, if it can train the model in this way.

    Raises:
        ConfigurationError: it can't, and why.
    """
    _check_model(model)
    if has_chunks:
        _check_chunks(model)
    _check_options(options)
    _check_validation(validation)
    check_targets(model, validation.validation_data, "validation data")
    return PortedAdapter(model, options, validation, has_chunks)


def logs_itself(model: keras.Model, validation: Validation, options: FitOptions) -> list[str]:
    """Where the logs get what ``fit`` computes: each path, where the names of the metrics are known."""
    levels = ["training.epoch", *(["validation.dataset"] if validation.is_done(options) else [])]
    names = metric_names(model)
    paths = levels if names is None else [f"{level}.{name}" for level in levels for name in names]
    return ["training.batch", *paths]


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        cure = "pass an instance, not the class" if isinstance(model, type) else "pass the model that fit trains"
        raise ConfigurationError(f"from_keras takes a compiled keras.Model of Keras 3, not {model!r}: {cure}.")
    name = type(model).__name__
    if not model.compiled:
        raise ConfigurationError(
            f"The {name} isn't compiled: call model.compile(optimizer=..., loss=...) before from_keras(model)."
        )
    if model.optimizer is None:
        raise ConfigurationError(
            f"The {name} was compiled without an optimizer, so that nothing would be trained: give "
            "model.compile(optimizer=...) one."
        )
    own = own_train_function(model)
    if own is not None:
        raise ConfigurationError(
            f"The {name}'s train_function is {own!r}, which isn't made by the model, and from_keras trains by the "
            "model's own step: change train_step or make_train_function instead, and set train_function to None."
        )
    if model.steps_per_execution != 1:
        raise ConfigurationError(
            f"The {name} was compiled with steps_per_execution={model.steps_per_execution}, and mlpug's callbacks and "
            "checkpoints come after every batch: compile it without."
        )
    check_one_device("from_keras", [model, model.optimizer])


def _check_chunks(model: keras.Model) -> None:
    own = overrides(model, *_OWN_STEPS)
    if own:
        raise ConfigurationError(
            f"{type(model).__name__} has a {' and a '.join(own)} of its own, which says itself how a batch is trained "
            "on, so mlpug can't do that in chunks: leave out batch_chunk_size and gradient_accumulation_steps, or "
            "write compute_loss in its place, which works with both."
        )
    if overrides(model, "compute_loss"):
        warnings.warn(
            f"{type(model).__name__} has a compute_loss of its own: in chunks, what it adds to the compiled loss is "
            "taken for a mean over samples. If it divides by something else, tokens that aren't padding say, give that "
            "part to model.compile(loss=...) as a keras.losses.Loss, or leave out batch_chunk_size and "
            "gradient_accumulation_steps.",
            MlpugWarning,
            stacklevel=2,
        )
    compiled = model._compile_loss
    for loss in [] if compiled is None else keras.tree.flatten(compiled._user_loss):
        _check_loss(loss)


def _check_loss(loss: Any) -> None:
    """Refuse a loss of which it isn't known how those of its chunks make that of the batch."""
    cure = "or leave out batch_chunk_size and gradient_accumulation_steps"
    if isinstance(loss, keras.losses.Loss):
        if loss.reduction in (None, "none"):
            raise ConfigurationError(
                f"The loss {loss.name!r} has reduction=None, so it is no number that chunks could share: give it "
                f'reduction="sum", which has the same gradient, or "sum_over_batch_size", {cure}.'
            )
        if type(loss).__call__ is not keras.losses.Loss.__call__:
            raise ConfigurationError(
                f"{type(loss).__name__} has a __call__ of its own, so mlpug can't know what it divides by and train on "
                f"a batch in chunks: write `call` in its place, which returns a value for each sample, {cure}."
            )
    function = keras.losses.get(loss) if isinstance(loss, str) and loss.lower() not in _CHOSEN_BY_SHAPE else loss
    axis = getattr(loss, "axis", None)
    is_per_sample = axis is not None and 0 not in (axis if isinstance(axis, (list, tuple)) else [axis])
    if getattr(function, "fn", function) in _OF_WHOLE_BATCH and not is_per_sample:
        name = getattr(loss, "name", None) or getattr(loss, "__name__", loss)
        raise ConfigurationError(
            f"The loss {name!r} compares the samples of a batch with each other, so that of chunks is another one: "
            f"take one that has a value for each sample (Dice and Tversky with an axis), {cure}."
        )


def _check_options(options: FitOptions) -> None:
    if options.batch_size is not None:
        checked_count("batch_size", options.batch_size)
    if options.shuffle not in (True, False, "batch"):
        raise ConfigurationError(f'shuffle must be True, False or "batch", not {options.shuffle!r}.')
    if options.class_weight is not None and not isinstance(options.class_weight, Mapping):
        raise ConfigurationError(
            f"class_weight must be a dict of weights by class, as {{0: 1.0, 1: 2.0}}, not {options.class_weight!r}."
        )


def _check_validation(validation: Validation) -> None:
    for name in ("validation_steps", "validation_batch_size"):
        value = getattr(validation, name)
        if value is not None:
            checked_count(name, value)
            if validation.validation_data is None:
                raise ConfigurationError(f"{name} is used with validation_data only: set that, or leave it out.")
    if isinstance(validation.validation_freq, int):
        checked_count("validation_freq", validation.validation_freq)
