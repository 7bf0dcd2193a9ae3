"""Learning-rate schedules: pure functions of the step, which give the factor that the learning rate is multiplied by.

A step is an update of the weights, counted from 0. The functions hold plain numbers alone, so that they mean the same
on every backend: ``torch.optim.lr_scheduler.LambdaLR(optimizer, factor)`` takes them, and so does a loop of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mlpug.errors import ConfigurationError
from mlpug.validation import checked_count

Factor = Callable[[int], float]


def constant_with_warmup(num_warmup_steps: int) -> Factor:
    """From 0 to 1 in a straight line, and then 1.

    Raises:
        ConfigurationError: a number below 0.

    >>> factor = constant_with_warmup(num_warmup_steps=4)
    >>> [factor(step) for step in (0, 1, 4, 100)]
    [0.0, 0.25, 1.0, 1.0]
    """
    warmup = _checked("num_warmup_steps", num_warmup_steps)
    return lambda step: _warmed_up(step, warmup)


def linear_with_warmup(num_warmup_steps: int, num_steps: int, final_factor: float = 0.0) -> Factor:
    """From 0 to 1 in a straight line, then to the final factor in another.

    Args:
        num_warmup_steps: in steps.
        num_steps: in steps, of both together; the factor is the final one from there on.
        final_factor: between 0 and 1.

    Raises:
        ConfigurationError: a number below 0, or fewer steps than those of the warm-up.

    >>> factor = linear_with_warmup(num_warmup_steps=2, num_steps=6)
    >>> [factor(step) for step in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    warmup, decay = _checked_parts(num_warmup_steps, num_steps)
    final = _checked_final(final_factor)
    return lambda step: _warmed_up(step, warmup) * _between(1.0, final, _progress(step - warmup, decay))


def cosine_with_warmup(num_warmup_steps: int, num_steps: int, final_factor: float = 0.0) -> Factor:
    """From 0 to 1 in a straight line, then to the final factor along half a cosine (Loshchilov and Hutter, 2017).

    Args:
        num_warmup_steps: in steps.
        num_steps: in steps, of both together; the factor is the final one from there on.
        final_factor: between 0 and 1.

    Raises:
        ConfigurationError: a number below 0, or fewer steps than those of the warm-up.

    >>> factor = cosine_with_warmup(num_warmup_steps=2, num_steps=6)
    >>> [round(factor(step), 3) for step in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    warmup, decay = _checked_parts(num_warmup_steps, num_steps)
    final = _checked_final(final_factor)

    def factor(step: int) -> float:
        share = (1.0 + math.cos(math.pi * _progress(step - warmup, decay))) / 2.0
        return _warmed_up(step, warmup) * _between(final, 1.0, share)

    return factor


def warmup_stable_decay(
    num_warmup_steps: int, num_stable_steps: int, num_decay_steps: int, final_factor: float = 0.0
) -> Factor:
    """From 0 to 1 in a straight line, 1 for a while, then to the final factor in another line (Zhai et al., 2022).

    Args:
        num_warmup_steps: in steps.
        num_stable_steps: in steps; more of them can be added in the middle of training.
        num_decay_steps: in steps; the factor is the final one from there on.
        final_factor: between 0 and 1.

    Raises:
        ConfigurationError: a number below 0.

    >>> factor = warmup_stable_decay(num_warmup_steps=2, num_stable_steps=3, num_decay_steps=2)
    >>> [factor(step) for step in range(9)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    warmup, stable = _checked("num_warmup_steps", num_warmup_steps), _checked("num_stable_steps", num_stable_steps)
    decay, final = _checked("num_decay_steps", num_decay_steps), _checked_final(final_factor)
    return lambda step: _warmed_up(step, warmup) * _between(1.0, final, _progress(step - warmup - stable, decay))


def _warmed_up(step: int, num_steps: int) -> float:
    return step / num_steps if step < num_steps else 1.0


def _progress(step: int, num_steps: int) -> float:
    """How much of a part is done, from 0 to 1."""
    if step < 0:
        return 0.0
    return step / num_steps if step < num_steps else 1.0


def _between(first: float, last: float, share: float) -> float:
    return (1.0 - share) * first + share * last


def _checked_parts(num_warmup_steps: object, num_steps: object) -> tuple[int, int]:
    warmup, steps = _checked("num_warmup_steps", num_warmup_steps), _checked("num_steps", num_steps)
    if steps < warmup:
        raise ConfigurationError(
            f"num_steps must be at least num_warmup_steps, which are among them: {steps} is less than {warmup}."
        )
    return warmup, steps - warmup


def _checked(name: str, value: object) -> int:
    return checked_count(name, value, at_least=0)


def _checked_final(value: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= 1.0:
        raise ConfigurationError(f"final_factor must be a number from 0 to 1, not {value!r}.")
    return float(value)
