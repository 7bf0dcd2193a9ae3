"""Between which devices a strategy of TensorFlow shares a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def processes() -> tuple[int, int]:
    """(rank, number of processes): one, as Keras 3 itself doesn't train in several of TensorFlow's."""
    return 0, 1


def sharing(parts: Sequence[Any]) -> str | None:
    """How parts of a model are shared between devices, in words; None where they aren't."""
    for strategy in (tf.distribute.get_strategy(), *map(_strategy_of, parts)):
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            return f"a {type(strategy).__name__} shares it between {strategy.num_replicas_in_sync} replicas"
    for part in parts:
        for variable in part.variables:
            values = getattr(variable.value, "values", ())  # of a variable that a strategy has made
            if isinstance(variable.value, tf.distribute.DistributedValues) and len(values) > 1:
                return f"the {type(part).__name__} has weights on {len(values)} of them, made under a strategy"
    return None


def scope() -> str | None:
    """What the scope that is open here is called; None where none is."""
    return type(tf.distribute.get_strategy()).__name__ if tf.distribute.has_strategy() else None


def _strategy_of(part: Any) -> Any:
    """That under which it was made: models and optimizers know, under names of Keras's own."""
    return getattr(part, "_distribute_strategy", None) or getattr(part, "_distribution_strategy", None)
