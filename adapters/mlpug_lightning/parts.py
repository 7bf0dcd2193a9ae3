"""Several callbacks of mlpug's as one of Lightning's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from mlpug_lightning.host import pl, without_unused_hooks

_HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)


@without_unused_hooks
class Parts(pl.Callback):
    """Callbacks that stand next to each other: Lightning spends some time on each, at each hook of each batch.

    Of each part the hooks are called that it has.
    """

    is_of_mlpug = True

    def __init__(self, parts: Sequence[pl.Callback]) -> None:
        self.key = f"mlpug-{id(self)}"
        self.take(parts)

    def take(self, parts: Sequence[pl.Callback]) -> None:
        """From now on these."""
        self._hooks: dict[str, list[Callable[..., None]]] = {name: _of(parts, name) for name in _HOOKS}
        self._at_batch_start = self._hooks["on_train_batch_start"]
        self._at_batch_end = self._hooks["on_train_batch_end"]

    @property
    def state_key(self) -> str:
        """Differs from that of others; asked for at each hook."""
        return self.key

    def tell_of_batches(self, behind: Parts) -> None:
        """Take over the hooks of batches of those that stand right behind: one turn of Lightning's less for each."""
        self._at_batch_start += behind._at_batch_start
        self._at_batch_end += behind._at_batch_end
        behind.on_train_batch_start = behind.on_train_batch_end = None  # type: ignore[method-assign, assignment]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._at_batch_start:
            hook(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._at_batch_end:
            hook(trainer, pl_module, outputs, batch, batch_idx)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_fit_start", trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_train_start", trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_train_epoch_start", trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_validation_end", trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_train_epoch_end", trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._call("on_train_end", trainer, pl_module)

    def _call(self, name: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self._hooks[name]:
            hook(trainer, pl_module)


class LateParts(Parts, pl.callbacks.Checkpoint):
    """Of callbacks that are to hear of an epoch's end after the module's own hook: see `LateBridge`."""


class LastParts(LateParts):
    """The last ones, also behind callbacks that the module brings itself, which Lightning puts behind all others."""

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        others = [each for each in trainer.callbacks if each is not self]
        trainer.callbacks = [*others, self]
        if others and isinstance(others[-1], Parts):
            others[-1].tell_of_batches(self)


def in_parts(callbacks: Sequence[pl.Callback], is_ours: Callable[[pl.Callback], bool]) -> list[pl.Callback]:
    """The same callbacks in the same order, mlpug's neighbours as one."""
    found: list[pl.Callback] = []
    for kind, group in groupby(callbacks, key=lambda callback: _kind_of(callback) if is_ours(callback) else None):
        neighbours = list(group)
        found += neighbours if kind is None else [kind(neighbours)]
    return found


def _kind_of(callback: pl.Callback) -> type[Parts]:
    return LateParts if isinstance(callback, pl.callbacks.Checkpoint) else Parts


def _of(parts: Sequence[pl.Callback], hook: str) -> list[Callable[..., None]]:
    return [getattr(part, hook) for part in parts if getattr(type(part), hook) is not getattr(pl.Callback, hook)]
