"""The loss of a batch alone, from a ``train_step`` whose logs are means over the epoch so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import keras
from keras import ops

# What the wrapped step adds to its logs; nobody but mlpug sees them.
LOSS, NUM_SAMPLES, DID_UPDATE = "mlpug/loss", "mlpug/num_samples", "mlpug/did_update"
_LOSS_SUM = "mlpug/loss_sum"  # in the place of the loss, where there are several replicas

Updates = list[tuple[Any, Any]]  # of a metric: (values, sample_weight) each time


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
        with ExitStack() as stack:
            heard = [(metric, stack.enter_context(_updates_of(metric))) for metric in self._candidates()]
            yield found
        for metric, updates in heard:
            usable = [pair for pair in updates if all(map(self._is_usable, pair))]
            if usable and len(usable) == len(updates):
                loss, count = _mean(usable, metric.dtype)
                found[LOSS] = loss
                if count is not None and not self._counts_whole_batch:
                    found[NUM_SAMPLES] = count
                return

    def _candidates(self) -> list[Any]:
        own = self._model._loss_tracker
        others = [metric for metric in self._model.metrics if metric.name == "loss" and metric is not own]
        return [own, *others]


@contextmanager
def _updates_of(metric: Any) -> Iterator[Updates]:
    """Within, what this thread updates the metric with is noted."""
    tapped = vars(metric).get("update_state")
    if not isinstance(tapped, _Tapped):
        tapped = _Tapped(metric)
        object.__setattr__(metric, "update_state", tapped)  # Keras doesn't hear of it
    updates = tapped.updates[get_ident()] = []
    try:
        yield updates
    finally:
        del tapped.updates[get_ident()]
        if not tapped.updates:
            tapped.remove()


class _Tapped:
    """Stands for a metric's ``update_state`` while steps are traced.

    TensorFlow traces the step of each replica in a thread of its own, and changes between them in the middle.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._kept = vars(metric).get("update_state")  # where it isn't that of its class
        self._update_state = metric.update_state
        self.updates: dict[int, Updates] = {}  # by thread

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        values, sample_weight = ((*arguments, None, None)[index] for index in range(2))
        pair = named.get("values", values), named.get("sample_weight", sample_weight)
        if get_ident() in self.updates:
            self.updates[get_ident()].append(pair)
        return self._update_state(*arguments, **named)

    def remove(self) -> None:
        """Let the metric have its own again."""
        if self._kept is None:
            object.__delattr__(self._metric, "update_state")
        else:
            object.__setattr__(self._metric, "update_state", self._kept)


def as_shares(found: Mapping[str, Any], num_replicas: int) -> dict[str, Any]:
    """What the step of a replica found, in numbers whose means over the replicas, which Keras takes, are the batch's.

    Each replica has the mean loss of its own samples, and they may have different numbers of them.
    """
    shares = {name: ops.cast(value, "float32") for name, value in found.items() if name != LOSS}
    if LOSS in found:
        loss = ops.convert_to_tensor(found[LOSS])
        if NUM_SAMPLES in shares:
            shares[NUM_SAMPLES] *= num_replicas
            weight = ops.cast(shares[NUM_SAMPLES], loss.dtype)
            shares[_LOSS_SUM] = ops.where(weight > 0, loss * weight, ops.zeros_like(loss))
        else:
            shares[LOSS] = loss
    return shares


def _mean(updates: Updates, dtype: Any) -> tuple[Any, Any]:
    """The mean of all values, and the sum of their weights; None where there are none.

    It is computed from the product that the metric computes, by the same operations: a compiler that had to give out
    the loss itself would compute the metric in another way than it does alone, and to other last bits.
    """
    (values, weight), *more = updates
    if not more and not len(getattr(values, "shape", ())):
        if weight is None:
            return values, None
        factor = ops.broadcast_to(ops.convert_to_tensor(weight, dtype=dtype), ops.shape(values))
        return ops.cast(values, dtype) * factor / factor, weight
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
    loss, num_samples = rest.pop(LOSS, None), rest.pop(NUM_SAMPLES, None)
    if _LOSS_SUM in rest:
        loss = rest.pop(_LOSS_SUM) / num_samples
    return rest, loss, num_samples, bool(rest.pop(DID_UPDATE, True))
