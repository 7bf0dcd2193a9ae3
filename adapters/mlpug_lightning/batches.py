"""Moves batches to a device, and results back to the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mlpug.errors import ConfigurationError
from mlpug.trees import leaves, map_leaves
from mlpug_lightning.host import CombinedLoader, pl, processed_loader, train_fetcher


def to_device(batch: Any, device: torch.device) -> Any:
    """The same nesting with every tensor, and every numpy array as a tensor, on the device.

    Objects with a ``to(device)`` method of their own are asked to move; anything else stays as it is.
    """

    def move(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            if leaf.device == device:
                return leaf
            # Only memory that is pinned can be copied while the host goes on.
            return leaf.to(device, non_blocking=device.type == "cuda")
        if isinstance(leaf, np.ndarray):
            return _as_tensor(leaf).to(device) if leaf.dtype.kind in "biufc" else leaf
        if hasattr(leaf, "to") and callable(leaf.to):
            return leaf.to(device)
        if hasattr(leaf, "__array__") and not isinstance(leaf, np.generic):  # TensorFlow's and JAX's arrays
            return move(np.asarray(leaf))
        return leaf

    return map_leaves(move, batch)


def to_host(tree: Any) -> Any:
    """The same nesting with tensors as numpy arrays, and those without an axis as numbers."""
    numbers = iter(_read_at_once([leaf for leaf in leaves(tree) if _is_scalar(leaf)]))
    return map_leaves(lambda leaf: next(numbers) if _is_scalar(leaf) else _array_to_host(leaf), tree)


def _is_scalar(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim == 0


def _read_at_once(scalars: list[torch.Tensor]) -> list[Any]:
    """The numbers in the tensors: by one transfer where they are of a kind, as the losses of many batches are."""
    if len({(scalar.dtype, scalar.device) for scalar in scalars}) == 1:
        numbers: list[Any] = torch.stack(scalars).tolist()
        return numbers
    return [scalar.item() for scalar in scalars]


def _array_to_host(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().cpu()
        # numpy has no bfloat16; every bfloat16 is a float32
        return leaf.float().numpy() if leaf.dtype is torch.bfloat16 else leaf.numpy()
    return leaf.item() if isinstance(leaf, np.generic) else leaf


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    # A tensor that shares read-only memory could write to it.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def check_one_loader(given: Any) -> None:
    """Refuse several loaders: a CombinedLoader, or a dict, list or tuple of loaders.

    Raises:
        ConfigurationError: it is that.

    >>> check_one_loader([torch.ones(2, 3)])
    """
    is_combined = hasattr(given, "flattened") and hasattr(given, "_mode")
    is_list = isinstance(given, (list, tuple)) and any(map(_is_loader, leaves(given[:1])))
    if not (is_combined or is_list or isinstance(given, Mapping)):
        return
    what = f"{type(given).__name__} of loaders" if is_list else type(given).__name__
    raise ConfigurationError(
        f"A DefaultTrainer trains on one loader, and not on a {what}. Give an object whose __iter__ gives the batches, "
        "such as zip(self.first, self.second), and whose __len__ says how many, or train a LightningModule by "
        "DefaultTrainer.from_lightning(module), which takes several loaders as Lightning does."
    )


def _is_loader(value: Any) -> bool:
    return isinstance(value, torch.utils.data.DataLoader)


class Batches:
    """The epochs of a run as one data loader: Lightning takes a list or dict for a collection of loaders.

    A DataLoader gets what Lightning gives each (its sampler for several processes, its seeds for workers) when
    Lightning has set up its processes, which is when it asks for the length.

    Args:
        epochs: of the run.
        trainer: Lightning's.
    """

    def __init__(self, epochs: Any, trainer: pl.Trainer) -> None:
        self._epochs = epochs
        self._trainer = trainer
        self._is_processed = False

    def __iter__(self) -> Iterator[Any]:
        # Without a length Lightning fetches a batch ahead, to know which is the last. That batch would be loaded with
        # random numbers from before the step, and couldn't be loaded again as it was by a run that is resumed.
        fetcher = train_fetcher(self._trainer)
        if fetcher is not None:  # the first time Lightning only tries whether there is an iterator
            fetcher.prefetch_batches = 0
        return iter(self._processed())

    def __len__(self) -> int:
        # Raises the TypeError by which Lightning knows that there is no length, where there is none.
        return len(self._processed())

    @property
    def sampler(self) -> Any:
        """Lightning tells it the epoch."""
        return getattr(self._processed().dataset, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """Lightning tells its sampler the epoch, and strategies ask it for its size, where there is one."""
        found = getattr(self._processed().dataset, "batch_sampler", None)
        if found is None:
            raise AttributeError("batch_sampler")
        return found

    def _processed(self) -> Any:
        if not self._is_processed:
            self._is_processed = True
            dataset = self._epochs.dataset
            if isinstance(dataset, torch.utils.data.DataLoader):
                self._epochs.dataset = processed_loader(self._trainer, dataset)
        return self._epochs


class WholeLoader(CombinedLoader):  # type: ignore[misc]  # Lightning's, whichever is loaded
    """What Lightning iterates. Who asks ``trainer.train_dataloader`` gets what the user gave, and no batch of training.

    Args:
        batches: of the run.
        epochs: whose dataset it is.
    """

    def __init__(self, batches: Batches, epochs: Any) -> None:
        super().__init__(batches, "max_size_cycle")
        self._epochs = epochs

    @property
    def iterables(self) -> Any:
        """The dataset, as Lightning would use it."""
        return self._epochs.dataset

    @property
    def batch_sampler(self) -> Any:
        """That of the user's loader: strategies look whether there is one."""
        found = getattr(self.iterables, "batch_sampler", None)
        if found is None:
            raise AttributeError("batch_sampler")
        return found


def detached(tree: Any) -> Any:
    """The same nesting with every tensor cut off from its gradient, so that the graph can be freed."""
    return map_leaves(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, tree)
