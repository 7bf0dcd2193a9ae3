"""Lists of batches for a LightningModule, of which Lightning itself would read each tensor, row by row."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mlpug.errors import MlpugWarning
from mlpug.trees import is_container, leaves

_PLAIN = (str, bytes, int, float, complex, type(None), np.generic)


def as_loader(name: str, given: Any) -> Any:
    """A loader of the batches where the data is a list of them; else what was given.

    Any nesting of loaders is Lightning's, to which whatever can be iterated is one, a tensor too.

    Args:
        name: of the data, for a warning where Lightning would read it in another way than one may mean.
        given: what a ``Trainer`` takes as loaders.

    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", MlpugWarning)
    ...     loader = as_loader("training dataset", [(torch.ones(2, 3), torch.ones(2))] * 5)
    >>> len(loader), [tensor.shape for tensor in next(iter(loader))]
    (5, [torch.Size([2, 3]), torch.Size([2])])
    """
    if not isinstance(given, (list, tuple)) or not given:
        return given
    if all(is_container(item) and _is_batch(item) for item in given):
        warnings.warn(
            f"The {name} is a {type(given).__name__} of batches, and is read as {len(given)} batches, where "
            "Trainer.fit would read every tensor in it as a loader of its rows. A DataLoader(batches, batch_size=None, "
            "collate_fn=lambda batch: batch) of torch.utils.data is read alike by both.",
            MlpugWarning,
            stacklevel=2,
        )
        return DataLoader(given, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]
    if all(_is_array(item) for item in given):
        warnings.warn(
            f"The {name} is a {type(given).__name__} of {len(given)} arrays, and Lightning reads each as a loader of "
            "its rows. For batches of several rows of each give "
            "torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=...).",
            MlpugWarning,
            stacklevel=2,
        )
    return given


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_batch(item: Any) -> bool:
    found = list(leaves(item))
    return any(map(_is_array, found)) and all(_is_array(leaf) or isinstance(leaf, _PLAIN) for leaf in found)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (torch.Tensor, np.ndarray))
