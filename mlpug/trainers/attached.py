"""mlpug's callbacks in a run that a script of the host trainer's own has started."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from mlpug.adapter import Run
from mlpug.callbacks.callback import STATES, Callback, called
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.plain_logs import logs_to_plain, restore_logs
from mlpug.trainers.callback_list import check_hooks, check_paths_and_states
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trainers.training_manager import TrainingManager


class Attached:
    """Callbacks with what they find as their manager, for a native callback that hands them the host's events.

    Args:
        callbacks: mlpug's.
        is_native: whether something is a callback of the host's.
        lacking: what the host's runs don't give: see `Callback.required_of_run`.
        logs_itself: where the host writes metrics, see `DefaultTrainer`.

    Raises:
        ConfigurationError: nothing that can be called there, or that the host can't give what it needs.
    """

    def __init__(
        self, callbacks: Sequence[Any], is_native: Any, lacking: Sequence[str], logs_itself: Sequence[str]
    ) -> None:
        if not callbacks:
            raise ConfigurationError("as_native needs callbacks: as_native(mlp.callbacks.CheckpointManager(...)).")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                cure = "give it to the host trainer itself" if is_native(callback) else "pass callbacks of mlpug's"
                raise ConfigurationError(f"as_native takes mlpug's callbacks, not {callback!r}: {cure}.")
            check_hooks(callback)
            missing = [each for each in callback.required_of_run() if each in lacking]
            if missing:
                raise ConfigurationError(
                    f"{called(callback)} needs {_WORDS[missing[0]]}, which a native run doesn't give to "
                    "callbacks. Leave it out, or train by a TrainingManager, which takes the model as it is: "
                    "DefaultTrainer.from_lightning(module) or from_keras(model)."
                )
        check_paths_and_states(callbacks, has_gradient_norm=False, logs_itself=logs_itself)
        self.callbacks = list(callbacks)
        self.manager: TrainingManager | None = None
        self._run_log: Any = None
        self._is_running = False
        self._state: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the run that is under way: a copy belongs to none."""
        return {**vars(self), "manager": None, "_run_log": None, "_is_running": False}

    @property
    def name(self) -> str:
        """By which callbacks are told from others in the same run."""
        return ", ".join(callback.name for callback in self.callbacks)

    def start(self, trainer: DefaultTrainer, num_epochs: int) -> Run:
        """A run begins: what its events are told to."""
        self.manager = None
        callbacks = self._possible_with(trainer)
        manager = TrainingManager(trainer, DataOfHost(), num_epochs=num_epochs, callbacks=callbacks)
        run = manager.attach()
        self.manager, self._is_running = manager, True
        self._run_log = run.listeners[0]
        return run

    def _possible_with(self, trainer: DefaultTrainer) -> list[Callback]:
        """All but those that can't do here what they are for: known only now, and a guest ends no run because of it."""
        if trainer.no_checkpoints is None:
            return self.callbacks
        left_out = [callback for callback in self.callbacks if STATES in callback.required_of_run()]
        if left_out and trainer.process.rank == 0:
            names = ", ".join(called(callback) for callback in left_out)
            warnings.warn(
                f"as_native leaves {names} out of this run, and nothing is saved: {trainer.no_checkpoints}",
                MlpugWarning,
                stacklevel=2,
            )
        return [callback for callback in self.callbacks if callback not in left_out]

    def count_from(self, num_epochs: int, num_batches: int, num_in_epoch: int = 0) -> None:
        """The host goes on where an earlier run was.

        Args:
            num_epochs: that are done.
            num_batches: that are done, over all of training.
            num_in_epoch: those of the epoch that goes on.
        """
        counts = {"completed_epochs": num_epochs, "batches_done": num_batches}
        self._run_log.set_state({**self._run_log.get_state(), **counts, "first_batch": num_batches - num_in_epoch})

    def batch_began(self, at: float) -> None:
        """The batch that was told to start just now started then, by `time.perf_counter`."""
        self._run_log.batch_started_at = at

    def restore(self) -> None:
        """When training has started: callbacks go on where a checkpoint of the host's was."""
        if self._state is not None and self.manager is not None:
            state, self._state = self._state, None
            restore_logs(self.manager.logs, state["logs"])
            for callback in self.callbacks:
                if callback.name in state["callbacks"]:
                    callback.set_state(state["callbacks"][callback.name])

    def end(self, error: BaseException | None = None) -> None:
        """The run has ended, perhaps by an error."""
        is_running, self._is_running = self._is_running, False
        if is_running and self.manager is not None:
            self.manager.detach(error)

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint of the host's own: logs, and what the callbacks keep, as plain data."""
        if self.manager is None:
            return {}
        return {
            "logs": logs_to_plain(self.manager.logs),
            "callbacks": {callback.name: callback.get_state() for callback in self.callbacks},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Take it back when training starts."""
        self._state = state or None


_WORDS = {
    "batches": "the batches that are trained on",
    "training_dataset": "the training dataset",
    "optimizers": "the optimizers before training starts",
    STATES: "the state of the run",
}
