"""Says in a sentence what a host means by an error about the types of numbers in the first batch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlpug.errors import DatasetError
from mlpug.trees import leaves

# As PyTorch and TensorFlow write where two types of numbers, or two devices, meet.
_OF_TYPES = re.compile(
    r"must have the same dtype|expected scalar type|should be the same|Found dtype \w+ but expected"
    r"|on the same device|Cannot copy out of meta tensor|\w+ is not implemented for '\w+'|not implemented for '\w+'"
    r"|that does not match type|was expected to be a \w+ tensor but is a|Cast string to|Invalid dtype: str"
    r"|not a valid JAX array type"
)


def as_told(error: Exception, batch: Any, weights: Mapping[str, Mapping[str, Any]]) -> DatasetError | None:
    """The error that says what doesn't fit together, or None where it is about something else.

    Args:
        error: that the host raised when it computed the first batch.
        batch: the first one; None where nobody has it.
        weights: arrays by component and path.

    >>> import numpy as np
    >>> error = RuntimeError("mat1 and mat2 must have the same dtype, but got Double and Float")
    >>> batch, weights = (np.zeros(2), np.zeros(2, "int32")), {"model": {"weight": np.zeros(2, "float32")}}
    >>> print(as_told(error, batch, weights))
    The model can't compute the first batch: mat1 and mat2 must have the same dtype, but got Double and Float. The batch
    has float64 and int32, the weights are float32. ...
    >>> as_told(RuntimeError("my own"), batch, weights) is None
    True
    """
    said = str(error).strip().split("\n")[0]
    if isinstance(error, DatasetError) or not _OF_TYPES.search(said):
        return None
    of_batch = _types(leaves(batch))
    of_weights = _types(array for arrays in weights.values() for array in arrays.values())
    if of_batch and of_weights and set(of_batch) <= set(of_weights):
        return None  # they fit: it is something within the model
    are_known = of_batch and of_weights
    types = f" The batch has {_listed(of_batch)}, the weights are {_listed(of_weights)}." if are_known else ""
    return DatasetError(
        f"The model can't compute the first batch: {said.rstrip('.')}.{types} Give it "
        'data of the type and on the device of its weights, as array.astype("float32") and tensor.float() make it, or '
        "make the model of the type of the data."
    )


def _types(arrays: Iterable[Any]) -> list[str]:
    """By the names that all hosts share."""
    found = {_name(array.dtype) for array in arrays if hasattr(array, "dtype")}
    return sorted(found)


def _name(dtype: Any) -> str:
    name = getattr(dtype, "name", None)
    return str(dtype).removeprefix("torch.") if name is None else str(name)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
