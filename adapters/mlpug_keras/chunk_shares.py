"""What the losses of a chunk count for in those of its batch: each by what it divides by.

A compiled loss is a sum over values, divided by their number, or by the sum of a mask or of sample weights, or by
nothing, and each output of a model has its own. The step weighs chunks by their numbers of samples. So each loss of a
chunk is multiplied beforehand by its share of the batch's divisor over its share of the samples: 1 for a mean over all
values, which most are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope

from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug_keras.accumulation import count_in
from mlpug_keras.batches import split
from mlpug_keras.compiled_model import CompiledModel, WeighedChunk, compiled_losses, patched, with_losses

_SUM, _BY_WEIGHTS = "sum", "mean_with_sample_weight"


class ChunkShares:
    """Says for each chunk of a batch what its losses are multiplied by.

    Args:
        model: compiled and, when a batch is asked about, built.
        view: the same, as steps see it.
        make_step: makes the step of such a view.
    """

    def __init__(self, model: keras.Model, view: CompiledModel, make_step: Callable[[Any], Any]) -> None:
        self._model = model
        self._divisors = _Divisors(model, view)
        self._step = make_step(self._divisors)
        self._uneven: dict[str, frozenset[int]] = {}  # for each kind of chunk, the losses that ask for their divisors

    def weighed(self, chunks: list[Any]) -> Sequence[Any]:
        """The chunks with their factors; as they are where nothing has to be multiplied."""
        if len(chunks) == 1:
            return chunks
        is_sum = [loss.reduction == _SUM for loss in compiled_losses(self._model)]
        uneven = frozenset().union(*map(self._uneven_in, chunks))
        if not uneven and not any(is_sum):
            return chunks
        counts = np.asarray([count_in(chunk) for chunk in chunks], "float32")
        of_counts = counts.sum() / counts
        divisors = [self._step.evaluate(chunk, None)[0] for chunk in chunks] if uneven else []
        columns = [
            _shares([row[number] for row in divisors]) * of_counts
            if number in uneven
            else (of_counts if of_sum else np.ones_like(of_counts))
            for number, of_sum in enumerate(is_sum)
        ]
        factors = ops.stack(columns, axis=1) if uneven else np.stack(columns, axis=1)
        return [WeighedChunk(chunk, factors[place]) for place, chunk in enumerate(chunks)]

    def _uneven_in(self, chunk: Any) -> frozenset[int]:
        kind = repr(split(chunk, None)[1])
        if kind not in self._uneven:
            self._step.evaluate(chunk, None)  # which traces it
            self._uneven[kind] = frozenset(self._divisors.uneven)
        return self._uneven[kind]


class _Divisors:
    """Stands for the model in a step: its results for a chunk are what its compiled losses divide by.

    The compiler leaves out all that these don't depend on: nearly everything.

    Attributes:
        uneven: the losses for which that isn't just the number of values, as of the latest trace.
    """

    has_chunks = True

    def __init__(self, model: keras.Model, view: CompiledModel) -> None:
        self._model = model
        self._view = view
        self.uneven: set[int] = set()
        self._told: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def results(self, batch: Any, settings: Any, inference_mode: bool) -> tuple[Any, None, None]:
        """(the divisors, None, None); changes nothing."""
        if not in_stateless_scope():
            variables = (*self._view.trainable_variables, *self._view.non_trainable_variables)
            with keras.StatelessScope(state_mapping=[(variable, variable.value) for variable in variables]):
                return self.results(batch, settings, inference_mode)
        self.uneven = set()
        found: dict[int, Any] = {}
        with with_losses(self._model, partial(self._noting, found)):
            self._view.results(batch, settings, inference_mode=False)
        return [found.get(number) for number in range(len(compiled_losses(self._model)))], None, None

    def _noting(self, found: dict[int, Any], number: int, loss: Any) -> Callable[..., Any]:
        def call(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            with _noted_values(loss) as values:
                result = loss(y_true, y_pred, sample_weight)
            if loss.reduction != _SUM:
                has_mask = any(get_keras_mask(each) is not None for each in (y_pred, *values))
                weight = sample_weight if loss.reduction == _BY_WEIGHTS else None
                if not len(values[0].shape):
                    self._check_scalar(number, loss, has_mask or sample_weight is not None)
                elif has_mask or weight is not None:
                    self.uneven.add(number)
                with _of_ones(loss):
                    found[number] = loss(y_true, y_pred, weight)
            return result

        return call

    def _check_scalar(self, number: int, loss: Any, is_weighed: bool) -> None:
        what = f"The loss {loss.name!r} gives one number for all samples, not one for each"
        if is_weighed:
            raise ConfigurationError(
                f"{what}, and there are sample weights or a mask, so mlpug can't know what it divides by and train on "
                "a batch in chunks: return a value for each sample, or leave out batch_chunk_size and "
                "gradient_accumulation_steps."
            )
        if number not in self._told:
            self._told.add(number)
            warnings.warn(
                f"{what}: in chunks, it is taken for their mean. Return a value for each sample, of which Keras takes "
                "the mean, if it is another one.",
                MlpugWarning,
                stacklevel=2,
            )


@contextmanager
def _noted_values(loss: Any) -> Iterator[list[Any]]:
    """Within, the values that the loss computes, before they are reduced, are noted."""
    values: list[Any] = []
    original = loss.call

    def call(*arguments: Any, **named: Any) -> Any:
        values.append(original(*arguments, **named))
        return values[-1]

    with patched(loss, call=call):
        yield values


@contextmanager
def _of_ones(loss: Any) -> Iterator[None]:
    """Within, the loss is the sum of what it multiplies its values by."""
    original = loss.call

    def call(*arguments: Any, **named: Any) -> Any:
        values = original(*arguments, **named)
        ones = ops.ones_like(values)
        set_keras_mask(ones, get_keras_mask(values))
        return ones

    with patched(loss, call=call, reduction=_SUM):
        yield


def _shares(divisors: list[Any]) -> Any:
    """Each one's share of all; 0 of nothing."""
    each = ops.stack([ops.cast(divisor, "float32") for divisor in divisors])
    return ops.divide_no_nan(each, ops.sum(each))
