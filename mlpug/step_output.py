"""Reads what a training model returned: a loss, a tuple or a dict."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlpug.adapter import StepOutput
from mlpug.errors import MlpugWarning, TrainingModelError
from mlpug.joining import joined
from mlpug.trees import num_samples_in

_RETURNS = (
    "Return the loss of the batch, or (loss, num_samples, auxiliary_results...), "
    'or a dict {"loss": ..., "num_samples": ..., "auxiliary_results": ...}; '
    "the loss is a scalar, the mean over the batch's samples, or a dict with one for each optimizer, by its name."
)


def as_step_output(returned: Any, batch: Any) -> StepOutput:
    """What the training model returned for `batch`, as a `StepOutput`; nothing is copied or computed.

    Raises:
        TrainingModelError: there is no loss in it, or one that isn't a scalar.

    >>> as_step_output((0.5, 32, "hidden states"), batch=None)
    StepOutput(loss=0.5, num_samples=32, auxiliary_results='hidden states', gradient_norm=None)
    """
    loss, num_samples, auxiliary_results = checked_results(returned)
    return StepOutput(loss, counted(num_samples, batch), auxiliary_results)


def checked_results(returned: Any) -> tuple[Any, Any, Any]:
    """(loss, num_samples, auxiliary_results), the last two None where they weren't returned; works while tracing.

    >>> checked_results({"loss": 0.5})
    (0.5, None, None)
    """
    loss, num_samples, auxiliary_results = _parts(returned)
    if loss is None:
        what = "None" if returned is None else f"a {type(returned).__name__} whose loss is None"
        raise TrainingModelError(f"The training model returned {what}. {_RETURNS}")
    for each in loss.values() if isinstance(loss, Mapping) else [loss]:
        _check_loss(each)
    if len(getattr(num_samples, "shape", ())) > 0 or isinstance(num_samples, (str, bytes)):
        raise TrainingModelError(
            f"num_samples, the second of what the training model returned, must be a number, not a "
            f"{type(num_samples).__name__}{tuple(getattr(num_samples, 'shape', ()))}. {_RETURNS}"
        )
    return loss, num_samples, auxiliary_results


def _check_loss(loss: Any) -> None:
    shape = getattr(loss, "shape", None)
    if shape is None:
        if not isinstance(loss, (int, float)):
            raise TrainingModelError(f"The training model's loss is a {type(loss).__name__}, not a scalar. {_RETURNS}")
    elif len(shape) > 0:
        raise TrainingModelError(
            f"The training model's loss must be a scalar, not an array of shape {tuple(shape)}. {_RETURNS}"
        )


def check_losses(loss: Any, optimizer_names: Iterable[str]) -> None:
    """Raise `TrainingModelError` where there are several losses, and not one for each optimizer.

    >>> check_losses(0.5, ["generator", "discriminator"])
    """
    names = list(optimizer_names)
    if isinstance(loss, Mapping) and set(loss) != set(names):
        raise TrainingModelError(
            f"The training model returned losses for {', '.join(map(str, loss))}, and the optimizers are "
            f"{', '.join(names)}: return one loss for all of them, or one for each by its name."
        )


def _joined_loss(losses: Sequence[Any], mean: Callable[[list[Any]], Any]) -> Any:
    if isinstance(losses[0], Mapping):
        return {name: mean([loss[name] for loss in losses]) for name in losses[0]}
    return mean(list(losses))


def _parts(returned: Any) -> tuple[Any, Any, Any]:
    if isinstance(returned, tuple):
        loss, num_samples = (*returned, None, None)[:2]
        rest = returned[2:]
        return loss, num_samples, rest[0] if len(rest) == 1 else rest or None
    if isinstance(returned, Mapping):
        if "loss" not in returned:
            raise TrainingModelError(
                f'The training model returned a dict without "loss": its keys are {sorted(map(str, returned))}. '
                f"{_RETURNS}"
            )
        unknown = set(returned) - {"loss", "num_samples", "auxiliary_results"}
        if unknown:
            raise TrainingModelError(
                f"The training model returned a dict with unknown keys {sorted(map(str, unknown))}: "
                f'put them in "auxiliary_results". {_RETURNS}'
            )
        return returned["loss"], returned.get("num_samples"), returned.get("auxiliary_results")
    return returned, None, None


def counted(num_samples: Any, batch: Any) -> Any:
    """What the training model said, or else the number of samples in the batch's first array, or 1.

    >>> import numpy as np
    >>> counted(None, batch=np.zeros((3, 2))), counted(7, batch=np.zeros((3, 2)))
    (3, 7)
    """
    if num_samples is None:
        num_samples = num_samples_in(batch)
    if num_samples is not None:
        return num_samples
    # The default filter shows a warning once for each place that gives it, and this is one place.
    warnings.warn(
        "No array in the batch tells how many samples it has, so every batch counts as one sample, and means over "
        "batches don't weigh large batches more than small ones. Return (loss, num_samples) from the training model.",
        MlpugWarning,
        stacklevel=2,
    )
    return 1


def joined_outputs(
    outputs: Sequence[StepOutput],
    concatenate: Callable[[list[Any]], Any],
    weighted_mean: Callable[[list[Any], list[Any]], Any],
) -> StepOutput:
    """What the training model gave for the chunks of a batch, as if it had been given for the batch.

    Args:
        outputs: of the chunks, at least one.
        concatenate: arrays along their first axis.
        weighted_mean: ``f(values, weights)`` of numbers and scalar arrays; what weighs nothing counts nothing, also
            where it is NaN.

    >>> import numpy as np
    >>> def mean(values, weights):
    ...     return sum(v * w for v, w in zip(values, weights)) / sum(weights)
    >>> joined_outputs([StepOutput(1.0, 3, np.arange(3)), StepOutput(2.0, 1, np.arange(1))], np.concatenate, mean)
    StepOutput(loss=1.25, num_samples=4, auxiliary_results=array([0, 1, 2, 0]), gradient_norm=None)
    """
    if len(outputs) == 1:
        return outputs[0]
    weights = [output.num_samples for output in outputs]
    return StepOutput(
        loss=_joined_loss([output.loss for output in outputs], lambda losses: weighted_mean(losses, weights)),
        num_samples=sum(weights[1:], weights[0]),
        auxiliary_results=joined(
            [output.auxiliary_results for output in outputs], concatenate, lambda values: weighted_mean(values, weights)
        ),
    )
