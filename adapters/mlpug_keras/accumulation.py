"""The law by which the gradients of chunks make that of their batch, as operations of any backend of Keras.

It is sum(num_samples_i * gradient_i) / sum(num_samples_i). Each num_samples is known only after the forward pass. So
the gradients are weighed relative to the first chunk that counts anything, which keeps them in the range of any float,
and their sum is divided once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mlpug.trees import num_samples_in


def share(num_samples: Any, reference: Any) -> tuple[Any, Any]:
    """The weight of a chunk, and the reference for the next one, which is 0 before the first that counts anything.

    >>> weight, reference = share(4, 0.0)
    >>> float(weight), float(share(2, reference)[0])
    (1.0, 0.5)
    """
    count = ops.cast(num_samples, "float32")
    reference = ops.where(reference > 0, reference, count)
    return ops.where(count > 0, count / ops.maximum(reference, 1e-30), 0.0), reference


def counted_part(gradient: Any, weight: Any, dtype: str) -> Any:
    """What is added to the sum; zero where nothing counts, also where the gradient is NaN.

    >>> float(counted_part(ops.array(float("nan")), ops.array(0.0), "float32"))
    0.0
    """
    return ops.where(weight > 0, ops.cast(gradient, dtype) * ops.cast(weight, dtype), ops.cast(0.0, dtype))


def overwrites(variable: Any) -> bool:
    """Whether an optimizer assigns what comes as the variable's gradient, as Keras does with the scales of float8."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def largest(total: Any, value: Any, weight: Any, weight_before: Any) -> Any:
    """What takes the place of such a variable: the largest of the chunks that count, by Keras's own rule.

    >>> float(largest(ops.array(3.0), ops.array(2.0), weight=1.0, weight_before=1.0))
    3.0
    """
    value = ops.cast(value, total.dtype)
    new = ops.where(weight_before > 0, ops.maximum(total, value), value)
    return ops.where(weight > 0, new, total)


def mean_of(total: Any, weight: Any, dtype: Any) -> Any:
    """The gradient of the batch, in the dtype of its variable; zero where nothing counts anything."""
    return ops.cast(total / ops.cast(ops.where(weight > 0, weight, 1.0), total.dtype), dtype)


def sum_dtype(variable: Any) -> str:
    """Of sums of the variable's gradients: no less than float32."""
    dtype: str = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def weighted_mean(values: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Of numbers and scalars; what weighs nothing counts nothing, also where it is NaN. NaN where nothing weighs.

    >>> float(weighted_mean([1.0, float("nan"), 2.0], [3, 0, 1]))
    1.25
    """
    first = values[0]
    is_float = hasattr(first, "dtype") and keras.backend.is_float_dtype(keras.backend.standardize_dtype(first.dtype))
    dtype = keras.backend.standardize_dtype(first.dtype) if is_float else "float32"
    sums = "float64" if dtype == "float64" else "float32"
    weight = ops.stack([ops.cast(each, sums) for each in weights])
    value = ops.stack([ops.cast(each, sums) for each in values])
    mean = ops.sum(ops.where(weight > 0, value * weight, 0.0)) / ops.sum(weight)
    return ops.cast(mean, dtype)


def count_in(chunk: Any) -> Any:
    """What a chunk's num_samples is where the training model doesn't say."""
    return num_samples_in(chunk) or 1
