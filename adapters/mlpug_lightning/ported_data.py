"""The training data of a Lightning project as it is: what the user gave, for Lightning to ask and to draw from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from mlpug.adapter import DataOptions
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.datasets.drawn_by_host import DrawnByHost
from mlpug.datasets.random_states import Snapshot
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning
from mlpug.validation import checked_dataset
from mlpug_lightning.host import asked_through, pl, validation_loop
from mlpug_lightning.observed_loader import combined
from mlpug_lightning.ported_draws import Draws
from mlpug_lightning.ported_lists import as_loader
from mlpug_lightning.ported_places import Place
from mlpug_lightning.ported_val_loaders import ValidationLoaders


class LightningData(DrawnByHost):
    """What Lightning trains on.

    Args:
        trainer: Lightning's.
        options: what the user asked of the data.
        given: a loader, or a collection of them; None where a holder has them.
        holder: a DataModule, or the module itself, which Lightning asks for its loaders.
    """

    def __init__(self, trainer: Any, options: DataOptions, given: Any = None, holder: Any = None) -> None:
        super().__init__(given)
        self._trainer = trainer
        self.given = given
        self.holder = holder
        self.num_batches_per_epoch = options.num_batches_per_epoch
        self.group_size = options.gradient_accumulation_steps
        self._seed = options.seed
        self._draws: Draws | None = None
        self.validation = ValidationLoaders(trainer, None)
        self._loaded: dict[str, Any] = {}
        self._place: Place | None = None
        self._rest: Snapshot | None = None  # the global random state where the resumed run stopped

    def __iter__(self) -> Iterator[Any]:
        loaders = self._trainer.train_dataloader if self.given is None else self.given
        if loaders is None:
            raise ConfigurationError(
                f"The loaders of {type(self.holder).__name__} are there when training has started, and not before: "
                "give the loader itself to what evaluates on it."
            )
        return map(itemgetter(0), combined(loaders))

    @property
    def datamodule(self) -> Any:
        """The DataModule, where the data is one's."""
        return self.holder if isinstance(self.holder, pl.LightningDataModule) else None

    @property
    def _is_only_known_to_host(self) -> bool:
        """Whether the loaders are known when Lightning has asked for them, or are several."""
        return self.given is None or isinstance(self.given, (dict, list, tuple)) or hasattr(self.given, "flattened")

    @contextmanager
    def drawn(self, first_epoch: int, before_fetch: Callable[[], bool]) -> Iterator[None]:
        """For the time of a ``fit``, in which Lightning draws; see `Draws`."""
        self._draws = draws = Draws(
            self._trainer,
            first_epoch,
            self.group_size,
            self._seed,
            keeps_states=self.keeps_states,
            before_fetch=before_fetch,
            place=self._place,
            has_fingerprint=not self._is_only_known_to_host,
        )
        try:
            with (
                asked_through(self._trainer.fit_loop, draws.request),
                asked_through(validation_loop(self._trainer), self.validation.request),
            ):
                yield
        finally:
            draws.close()

    def warn_if_shorter(self) -> None:
        """Say that an epoch has fewer batches than it was to have."""
        asked, there = self.num_batches_per_epoch, self._trainer.num_training_batches
        if asked is not None and there < asked:
            warnings.warn(
                f"The training dataset has {there} batches, fewer than num_batches_per_epoch={asked}: each epoch ends "
                "with the dataset.",
                MlpugWarning,
                stacklevel=2,
            )

    def check_not_empty(self) -> None:
        """After a ``fit``: Lightning says nothing where the loaders have no batches.

        Raises:
            DatasetError: they have none.
        """
        if self._trainer.fit_loop.max_batches == 0 and self._trainer.limit_train_batches != 0:
            raise DatasetError(
                "The training dataset is empty: its loaders have no batches. Check the data, whether drop_last drops "
                "them, and limit_train_batches."
            )

    @property
    def draws(self) -> Draws:
        """Of the ``fit`` that began last."""
        assert self._draws is not None
        return self._draws

    def state(self, num_trained: int) -> dict[str, Any]:
        if self._draws is None:
            return self._loaded
        return {**self._draws.state(num_trained), "validation": self.validation.state()}

    def load_state(self, state: dict[str, Any], random: Snapshot) -> None:
        self._loaded, self._rest = state, random
        if state["read_as"] != DataOfHost.__name__:
            self._place = Place.from_plain(state)
            self.validation = ValidationLoaders(self._trainer, state["validation"])

    @property
    def goes_on_within_an_epoch(self) -> bool:
        """Whether the resumed run has an epoch whose batches Lightning has begun to draw."""
        return self._place is not None and self._place.round is not None

    def warn_if_not_rewindable(self) -> None:
        """Said when Lightning has the loaders."""

    def close(self) -> None:
        """Lightning does that itself, and the resumed place means nothing any more."""
        self._place = None

    def random_at_start(self) -> Snapshot:
        if self._draws is not None:
            self._draws.go_on_from(self.random_at_rest)
        return self.random_at_rest

    @property
    def random_at_rest(self) -> Snapshot:
        """The global random state where the resumed run stopped."""
        assert self._rest is not None
        return self._rest


def data_of(given: Any, module: pl.LightningModule, trainer: pl.Trainer, options: DataOptions) -> LightningData:
    """What the user gave to train on; nobody is asked for anything.

    Raises:
        ConfigurationError: nothing that Lightning trains on.
        DatasetError: it says that it is empty.
    """
    holder = getattr(given, "__self__", given)
    if isinstance(holder, pl.LightningDataModule) or holder is module:
        is_whole = given is holder or getattr(given, "__name__", "") == "train_dataloader"
        if not is_whole:
            raise ConfigurationError(f"The training dataset must be its train_dataloader, or it itself, not {given!r}.")
        if not _gives_its_own(holder):
            raise ConfigurationError(
                f"{type(holder).__name__} has no train_dataloader: give the training data to the TrainingManager "
                "itself."
            )
        return LightningData(trainer, options, holder=holder)
    if getattr(given, "_mode", None) == "sequential":
        raise ConfigurationError(
            "Lightning doesn't train on a CombinedLoader that gives its loaders one after the other: choose "
            '"max_size_cycle", "max_size" or "min_size" for its mode, not "sequential".'
        )
    if not hasattr(given, "flattened"):  # whose length is known when it is iterated
        checked_dataset("training dataset", given)
    return LightningData(trainer, options, as_loader("training dataset", given))


def _gives_its_own(holder: Any) -> bool:
    base = pl.LightningDataModule if isinstance(holder, pl.LightningDataModule) else pl.LightningModule
    return type(holder).train_dataloader is not base.train_dataloader or "train_dataloader" in vars(holder)
