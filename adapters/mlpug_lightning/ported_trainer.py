"""A Lightning `Trainer` during a run of mlpug's, which leaves it as its own ``fit`` would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlpug_lightning.bridge import is_ours
from mlpug_lightning.native_callbacks import AfterRun, hide_metrics

_HOOK = "on_train_epoch_end"


class LentTrainer:
    """Settings, callbacks and the module's hook that are others for a run.

    Args:
        trainer: Lightning's.
        module: the user's.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer = trainer
        self._module = module
        callbacks = trainer.callbacks
        self.callbacks: list[Any] = callbacks.of_trainer() if isinstance(callbacks, AfterRun) else callbacks
        self._before_cut: list[Any] | None = None
        self._own_hook: Any = None  # one that was set on the module itself

    @contextmanager
    def used(self) -> Iterator[None]:
        """For the time of a run; after it there are those callbacks, too, that the run brought."""
        trainer = self._trainer
        own = trainer.limit_train_batches, trainer.num_sanity_val_steps, trainer.fit_loop.max_epochs
        try:
            yield
        finally:
            trainer.limit_train_batches, trainer.num_sanity_val_steps, trainer.fit_loop.max_epochs = own
            callbacks = self._before_cut or trainer.callbacks
            trainer.callbacks = AfterRun([each for each in callbacks if not is_ours(each)], self.callbacks)
            hide_metrics(trainer)
            if vars(self._module).get(_HOOK) is _nothing:
                delattr(self._module, _HOOK)
                if self._own_hook is not None:
                    setattr(self._module, _HOOK, self._own_hook)

    def cut_short(self) -> None:
        """Let neither the module nor Lightning's own callbacks hear of the end of this epoch."""
        self._own_hook = vars(self._module).get(_HOOK)
        setattr(self._module, _HOOK, _nothing)
        self._before_cut = self._trainer.callbacks
        self._trainer.callbacks = [callback for callback in self._trainer.callbacks if is_ours(callback)]

    def tell_all(self) -> None:
        """Let the callbacks hear of what comes after it."""
        if self._before_cut is not None:
            self._trainer.callbacks, self._before_cut = self._before_cut, None


def _nothing() -> None:
    """In the place of a hook."""
