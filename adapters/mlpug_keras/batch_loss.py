"""The loss of a batch alone, from a ``train_step`` whose logs are means over the epoch so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
from keras import ops

from mlpug_keras.compiled_model import patched

# What the wrapped step adds to its logs; nobody but mlpug sees them.
LOSS, NUM_SAMPLES, DID_UPDATE = "mlpug/loss", "mlpug/num_samples", "mlpug/did_update"

Updates = dict[int, list[tuple[Any, Any]]]  # for each metric that was updated: (values, sample_weight) each time


class BatchLoss:
    """Listens to what a step updates the metric ``"loss"`` with, while it is traced.

    That is `keras.Model`'s own, or one of that name among the model's metrics. A step may update none of them.

    Args:
        model: whose step it is.
        is_usable: whether a value can be given out of the step: not one of a function that is traced within it.
        counts_whole_batch: whether the sample weight of the loss is the number of samples, which is known anyway.
    """

    def __init__(self, model: keras.Model, is_usable: Callable[[Any], bool], counts_whole_batch: bool) -> None:
        self._model = model
        self._is_usable = is_usable
        self._counts_whole_batch = counts_whole_batch

    @contextmanager
    def heard(self) -> Iterator[dict[str, Any]]:
        """Within, a step is called; afterwards the result has the loss, and what it is the mean over, if known."""
        found: dict[str, Any] = {}
        updates: Updates = {}
        metrics = self._candidates()
        with ExitStack() as stack:
            for place, metric in enumerate(metrics):
                hearing = partial(_update, metric.update_state, updates, place)
                stack.enter_context(patched(metric, update_state=hearing))
            yield found
        for place in range(len(metrics)):
            usable = [pair for pair in updates.get(place, []) if all(map(self._is_usable, pair))]
            if usable and len(usable) == len(updates[place]):
                loss, count = _mean(usable)
                found[LOSS] = loss
                if count is not None and not self._counts_whole_batch:
                    found[NUM_SAMPLES] = count
                return

    def _candidates(self) -> list[Any]:
        own = self._model._loss_tracker
        others = [metric for metric in self._model.metrics if metric.name == "loss" and metric is not own]
        return [own, *others]


def _update(update_state: Callable[..., Any], updates: Updates, place: int, *arguments: Any, **named: Any) -> Any:
    values, sample_weight = ((*arguments, None, None)[index] for index in range(2))
    values, sample_weight = named.get("values", values), named.get("sample_weight", sample_weight)
    updates.setdefault(place, []).append((values, sample_weight))
    return update_state(*arguments, **named)


def _mean(updates: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The mean of all values, and the sum of their weights; None where there are none."""
    (values, weight), *more = updates
    if not more and not len(getattr(values, "shape", ())):
        return values, weight
    totals, weights = [], []
    for values, weight in updates:
        values = ops.cast(values, "float32")
        weight = ops.broadcast_to(ops.cast(1.0 if weight is None else weight, "float32"), ops.shape(values))
        totals.append(ops.sum(values * weight))
        weights.append(ops.sum(weight))
    return sum(totals) / sum(weights), None if updates[0][1] is None else sum(weights)


def iterations_to_watch(model: keras.Model) -> Any:
    """The variable that says whether a step was an update; None where all of them are.

    An optimizer that scales the loss leaves out a step whose gradients aren't finite.
    """
    optimizer = model.optimizer
    return optimizer.iterations if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else None


def taken_from(logs: Mapping[str, Any]) -> tuple[dict[str, Any], Any, Any, bool]:
    """The logs as the step gave them, the loss and the number of samples, and whether the step was an update.

    The loss and the number of samples are None where the step didn't tell.
    """
    rest = dict(logs)
    return rest, rest.pop(LOSS, None), rest.pop(NUM_SAMPLES, None), bool(rest.pop(DID_UPDATE, True))
