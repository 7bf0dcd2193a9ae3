"""Tells data without targets from what the compiled loss of a model needs, as early as that can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from mlpug.errors import DatasetError
from mlpug_keras.compiled_model import overrides
from mlpug_keras.fit_data import is_tf_dataset

_NO_TUPLE = "the generator must return a tuple"
_OWN_LOSS = ("compute_loss", "_compute_loss", "stateless_compute_loss")


def needs_targets(model: keras.Model, step: str = "train_step") -> bool:
    """Whether it is Keras that calls the loss, and the loss is one that compares something with targets.

    Args:
        model: compiled.
        step: that of training, or ``"test_step"``.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd")  # the layers may add losses
    >>> needs_targets(model)
    False
    >>> model.compile("sgd", "mse")
    >>> needs_targets(model)
    True
    """
    if overrides(model, step, *_OWN_LOSS, f"make_{step.partition('_')[0]}_function"):
        return False
    return any(_compares(loss) for loss in keras.tree.flatten(getattr(model, "loss", None)))


def check_targets(model: keras.Model, data: Any, what: str = "training data") -> None:
    """Refuse data that is known to have no targets, where the loss needs them; nothing is drawn to find out.

    Args:
        model: compiled.
        data: as it was given; arrays as a tuple.
        what: it is.

    Raises:
        DatasetError: it has none.
    """
    step = "train_step" if what == "training data" else "test_step"
    if needs_targets(model, step) and _has_none(data):
        raise without_targets(model, what)


def checking_targets(model: keras.Model) -> dict[str, Callable[..., Any]]:
    """What to put in the place of the model's `compute_loss`, by name: it looks when a step is traced.

    And of its `compute_metrics`, by which Keras may build the metrics before it computes a loss.
    """
    if not needs_targets(model) and not needs_targets(model, "test_step"):
        return {}

    def checking(compute: Callable[..., Any]) -> Callable[..., Any]:
        def checked(x: Any = None, y: Any = None, *others: Any, **named: Any) -> Any:
            if y is None:
                raise without_targets(model, "data")
            return compute(x, y, *others, **named)

        return checked

    return {name: checking(getattr(model, name)) for name in ("compute_loss", "compute_metrics")}


@contextmanager
def without_targets_told(model: keras.Model) -> Iterator[None]:
    """Within, what the host says of data whose batches have no targets is said in a sentence.

    Raises:
        DatasetError: instead of the host's own error, which shows all of a batch.
    """
    needs = needs_targets(model) or needs_targets(model, "test_step")
    try:
        yield
    except Exception as error:
        message = str(error)
        is_no_tuple = isinstance(error, ValueError) and _NO_TUPLE in message
        # As TensorFlow says of batches (x, None), for which it can't write an element's type.
        is_none = "did not match the expected structure" in message and "OptionalSpec(None" in message
        if needs and (is_no_tuple or is_none):
            raise without_targets(model, "data") from None
        if is_no_tuple:
            raise DatasetError(
                "Each batch of a generator must be a tuple for fit, (x,), (x, y) or (x, y, sample_weight), and it gave "
                "something else. A batch of features alone is written with a comma: yield (x,)."
            ) from None
        raise


def without_targets(model: keras.Model, what: str) -> DatasetError:
    """The error that says so."""
    return DatasetError(
        f"The {type(model).__name__} is compiled with a loss that needs targets, and the {what} has features only. "
        "Give (x, y), or batches that are (x, y) or (x, y, sample_weight); or compile it without a loss, where its "
        "layers add theirs."
    )


def _compares(loss: Any) -> bool:
    """Keras makes arrays of the targets before it calls a loss, but for a class that replaces that part."""
    is_kerass_call = not isinstance(loss, keras.losses.Loss) or type(loss).__call__ is keras.losses.Loss.__call__
    return loss is not None and is_kerass_call


def _has_none(data: Any) -> bool:
    if is_tf_dataset(data):
        return _is_without(data.element_spec)
    if isinstance(data, list):  # of batches
        first = next((batch for batch in data if batch is not None), None)  # the others are left out
        return first is not None and _is_without(tuple(first) if isinstance(first, list) else first)
    return isinstance(data, tuple) and _is_without(data)


def _is_without(batch: Any) -> bool:
    return not isinstance(batch, tuple) or len(batch) < 2 or batch[1] is None
