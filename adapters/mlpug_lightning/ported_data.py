"""The data of a Lightning project as it is: loaders, a DataModule, or a module's own `train_dataloader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from mlpug.errors import ConfigurationError
from mlpug.validation import known_length
from mlpug_lightning.host import barrier_before_data, combined_loader, fitting, is_combined, pl


@dataclass(frozen=True, slots=True)
class Source:
    """Where the training data comes from."""

    holder: Any = None  # a DataModule, or the module itself, which is asked for its loaders; None: they were given
    loader: Any = None  # of batches

    @contextmanager
    def giving(self, batches: Any) -> Iterator[None]:
        """Let the holder give these batches for its own, and do nothing again that it has done already."""
        if self.holder is None:
            yield
            return
        instead = {"train_dataloader": lambda: batches, "prepare_data": _nothing, "setup": _nothing}
        for name, function in instead.items():
            setattr(self.holder, name, function)  # hides the method of the class
        try:
            yield
        finally:
            for name in instead:
                delattr(self.holder, name)


def source_of(given: Any, module: pl.LightningModule, trainer: pl.Trainer) -> Source:
    """Prepare and set up whatever has the data, as Lightning does, and ask it for its training loader.

    Raises:
        ConfigurationError: the `train_dataloader` of something else.
    """
    holder = getattr(given, "__self__", given)
    if isinstance(holder, pl.LightningDataModule) or holder is module:
        is_whole = given is holder or getattr(given, "__name__", "") == "train_dataloader"
        if not is_whole:
            raise ConfigurationError(f"The training dataset must be its train_dataloader, or it itself, not {given!r}.")
        return Source(holder, as_one_loader(_prepared_loader(holder, trainer)))
    return Source(None, as_one_loader(given))


def as_one_loader(given: Any) -> Any:
    """Several loaders by name, or in a list, as one that gives a batch of each at a time, as Lightning does.

    >>> loader = torch.utils.data.DataLoader(torch.arange(4), batch_size=2)
    >>> list(as_one_loader({"a": loader, "b": loader}))[0]
    {'a': tensor([0, 1]), 'b': tensor([0, 1])}
    """
    if is_combined(given):
        if given._mode == "sequential":
            raise ConfigurationError(
                "Lightning doesn't train on a CombinedLoader that gives its loaders one after the other: choose "
                '"max_size_cycle", "max_size" or "min_size" for its mode, not "sequential".'
            )
        return Together(given)
    parts = list(given.values()) if isinstance(given, Mapping) else given
    is_several = isinstance(parts, (list, tuple)) and all(isinstance(p, torch.utils.data.DataLoader) for p in parts)
    return Together(combined_loader(given)) if is_several and parts else given


class Together:
    """Batches of several loaders.

    Args:
        combined: Lightning's own loader for them.
    """

    def __init__(self, combined: Any) -> None:
        self._combined = combined

    def __iter__(self) -> Iterator[Any]:
        return map(itemgetter(0), self._combined)  # its iterators are made now, and once: each draws a seed

    def __len__(self) -> int:
        # Lightning's own is known only once there are iterators, each of which would draw a seed.
        lengths = [len(loader) for loader in self._combined.flattened]
        return min(lengths) if self._combined._mode == "min_size" else max(lengths)

    def why_not_again(self) -> str | None:
        """Where a loader begins anew within an epoch."""
        lengths = [known_length(loader) for loader in self._combined.flattened]
        if self._combined._mode != "max_size_cycle" or len(set(lengths)) == 1:
            return None
        return (
            f"The training loaders have {lengths} batches, and the shorter ones begin anew within an epoch, with "
            "random numbers that a resumed run doesn't have there: it gets other batches than this one. Give "
            "TrainingManager(..., seed=...), or loaders of one length."
        )

    def process(self, processed: Callable[[Any], Any]) -> None:
        """Replace each loader by what is made of it."""
        self._combined.flattened = [processed(loader) for loader in self._combined.flattened]


def _prepared_loader(holder: Any, trainer: pl.Trainer) -> Any:
    holder.trainer = trainer
    if "train_dataloader" not in dir(holder) or not _gives_its_own(holder):
        raise ConfigurationError(
            f"{type(holder).__name__} has no train_dataloader: give the training data to the TrainingManager itself."
        )
    barrier_before_data(trainer)
    is_first = trainer.local_rank == 0 and (holder.prepare_data_per_node or trainer.node_rank == 0)
    if is_first:
        holder.prepare_data()
    barrier_before_data(trainer)
    holder.setup(stage=fitting())
    return holder.train_dataloader()


def _gives_its_own(holder: Any) -> bool:
    base = pl.LightningDataModule if isinstance(holder, pl.LightningDataModule) else pl.LightningModule
    return type(holder).train_dataloader is not base.train_dataloader or "train_dataloader" in vars(holder)


def _nothing(*_: Any, **__: Any) -> None:
    """Prepared, and set up, when the training manager was made."""
