"""The state of a whole run: gathered for a training checkpoint, and given back to everything that it came from."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from mlpug import __version__
from mlpug.adapter import Adapter
from mlpug.callbacks.callback import Callback
from mlpug.datasets import DrawnByHost, Epochs, random_states
from mlpug.datasets.data_of_host import DataOfHost, check_is_between_epochs
from mlpug.datasets.fingerprint import SEEDS, differences, fingerprint_of
from mlpug.datasets.generators import OwnGenerators, of_models
from mlpug.dropped_states import warn_of_dropped_states
from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug.plain_logs import logs_to_plain, restore_logs
from mlpug.trainers.run_log import Position, RunLog
from mlpug.trainers.unkept import Unkept, holders_of_run

_COUNTS = ("completed_epochs", "batches_done", "first_batch")
_OF_THIS_RUN = ("final_epoch", "final_batch_step")  # of the logs: a resumed run may be longer


class RunState:
    """What a run is made of, as far as it has a state.

    Args:
        adapter: the backend, with the model and the optimizers.
        run_log: counters and logs.
        callbacks: mlpug's own; the adapter takes care of native ones.
        epochs: the dataset, with its order.
        num_epochs: how many epochs the run is to have.
        num_batches_per_epoch: how many batches an epoch has, where that is known.
        group_size: how many of the dataset's batches make one.
        models: gives the training model and its components, once training starts.
        is_seeded: whether the order of the data comes from a seed of the run.
    """

    def __init__(
        self,
        adapter: Adapter,
        run_log: RunLog,
        callbacks: Sequence[Callback],
        epochs: Epochs | DrawnByHost,
        num_epochs: int,
        num_batches_per_epoch: int | None,
        group_size: int,
        models: Callable[[], Sequence[Any]],
        is_seeded: bool,
    ) -> None:
        self._adapter = adapter
        self._run_log = run_log
        self._callbacks = [callback for callback in callbacks if type(callback).get_state is not Callback.get_state]
        self._unkept = Unkept(partial(holders_of_run, adapter, epochs, callbacks), adapter.to_host)
        self._is_watching = self._has_failed = False
        self._epochs = epochs
        self._num_epochs = num_epochs
        self._place_in_data = {
            "num_batches_per_epoch": num_batches_per_epoch,
            "gradient_accumulation_steps": group_size,
        }
        data = epochs.dataset  # before a host puts its own version in its place; of a native run nobody knows it
        self._data = None if isinstance(data, DataOfHost) else fingerprint_of(data, is_seeded)
        self._models = models
        self._own: OwnGenerators | None = None  # the models' own random generators
        self._random: Any = None  # the random state of the latest rest
        self._of_own: dict[str, Any] = {}  # the same of those of the models
        self._marked: Position | None = None  # where that was
        self._resumed: dict[str, Any] | None = None

    def watch(self) -> None:
        """From now on what changes, and isn't kept, is told where a state is asked for."""
        self._is_watching = True
        self._unkept.begin()

    def mark(self) -> None:
        """Note the random state: nothing is under way."""
        self._random = random_states.capture()
        if self._own is not None:
            self._of_own = self._own.states_where_found()
        self._marked = self._run_log.position

    def mark_after_error(self) -> None:
        """Where a callback failed at the end of a batch, the step was the last to use random numbers, not the rest."""
        self._has_failed = True
        if self._marked != self._run_log.position:
            self.mark()

    def get(self) -> dict[str, Any]:
        """The state of the latest rest, as plain data and arrays, some of which may be views of live memory."""
        if self._own is not None:
            self._own.states_to_save()  # tells of what a model has made since
        if self._is_watching and self._adapter.process.rank == 0:
            # Behind an error this is the last save, which mustn't fail where a script makes errors of warnings.
            with warnings.catch_warnings(action="default") if self._has_failed else nullcontext():
                self._unkept.tell(is_between_epochs=self._run_log.position.batch == 0)
        return {
            "kind": "training",
            "backend": self._adapter.backend,
            "configuration": {
                "num_epochs": self._num_epochs,
                **self._batches(),
                "data": self._data,
                "num_processes": self._adapter.process.world_size,
                "versions": _versions(),
            },
            "run": self._run_log.get_state(),
            "logs": logs_to_plain(self._run_log.logs),
            "callbacks": {callback.name: callback.get_state() for callback in self._callbacks},
            **self._adapter.state(),
            "processes": self._adapter.gather(
                {
                    "random": random_states.as_plain(self._random),
                    "of_models": self._of_own,
                    "data": self._epochs.state(self._run_log.position.batch),
                }
            ),
        }

    def load(self, state: dict[str, Any], name: str, optimizer_settings: str) -> None:
        """Take the state of an earlier run; callbacks and logs get theirs when training has started.

        Args:
            state: what `get` gave.
            name: what messages call it.
            optimizer_settings: whose, see `Adapter.load_state`.

        Raises:
            CheckpointMismatchError: the state is of another kind of run; nothing has changed.
        """
        try:
            self._check_kinds(state, name)
            self._load(state, name, optimizer_settings)
        except KeyError as error:
            raise CheckpointMismatchError(
                f"{name} has no {error.args[0]!r}, which a training checkpoint has: it was changed after it was saved, "
                "or something else than mlpug has made it. Resume from another one."
            ) from error
        if self._adapter.process.rank == 0:
            warn_of_dropped_states(state["callbacks"], [callback.name for callback in self._callbacks])
        self._resumed = state

    def _check_kinds(self, state: dict[str, Any], name: str) -> None:
        """What is read here is of the kind that it should be."""
        if state.get("kind") != "training":
            return  # which `_check` says
        run, configuration = state["run"], state["configuration"]
        is_right = (
            all(type(state[part]) is dict for part in ("configuration", "run", "logs", "callbacks"))
            and type(state["processes"]) is list
            and all(type(each) is dict and type(each["data"]) is dict for each in state["processes"])
            and len(state["processes"]) >= min(configuration["num_processes"], self._adapter.process.world_size)
            and type(configuration["versions"]) is dict
            and all(type(run[count]) is int and 0 <= run[count] < 2**53 for count in _COUNTS)
            and run["first_batch"] <= run["batches_done"]
        )
        if not is_right:
            raise CheckpointMismatchError(
                f"{name} has something in it that no training checkpoint has: it was changed after it was saved, or "
                "something else than mlpug has made it. Resume from another one."
            )

    def _load(self, state: dict[str, Any], name: str, optimizer_settings: str) -> None:
        self._check(state, name)
        here = state["processes"][self._adapter.process.rank]
        random, data = here["random"], here["data"]
        for needed_later in ("logs", "callbacks"):
            if needed_later not in state:
                raise KeyError(needed_later)
        self._adapter.load_state(state, optimizer_settings)
        self._run_log.set_state(state["run"])
        self._random = random_states.from_plain(random)
        self._epochs.load_state(data, self._random)
        self._check_data(state, name)

    def restore(self) -> None:
        """What callbacks and random numbers of a resumed run go on with, now that all have heard of the start."""
        self._own = of_models(self._models())
        self._own.states()  # those that are there from the start
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        logs = self._run_log.logs
        kept = {name: logs[name] for name in _OF_THIS_RUN}
        restore_logs(logs, state["logs"])
        for name, value in kept.items():
            logs[name] = value
        for callback in self._callbacks:
            if callback.name in state["callbacks"]:
                callback.set_state(state["callbacks"][callback.name])
        random_states.restore(self._epochs.random_at_start())
        here = state["processes"][self._adapter.process.rank]
        if "of_models" in here:  # else it is of an earlier version
            self._own.set_states(here["of_models"])

    def _batches(self) -> dict[str, Any]:
        """What the number of a batch within an epoch depends on."""
        return {**self._place_in_data, "batch_size": _batch_size(self._epochs.dataset)}

    def _check(self, state: dict[str, Any], name: str) -> None:
        if state.get("kind") != "training":
            raise CheckpointMismatchError(
                f"{name} is not a training checkpoint, but one of kind {state.get('kind')!r}. Resume from a file that "
                "ends in -training-checkpoint.safetensors; weights alone are loaded by mlp.load_model_checkpoint(path)."
            )
        if state["backend"] != self._adapter.backend:
            raise CheckpointMismatchError(
                f"{name} is of a run on {state['backend']}, and this one is on {self._adapter.backend}: only the "
                "weights can change backends, and only between TensorFlow and JAX, by mlp.load_model_checkpoint(path)."
            )
        found, run = state["configuration"], state["run"]
        if found["num_processes"] != self._adapter.process.world_size:
            raise CheckpointMismatchError(
                f"{name} is of a run with {found['num_processes']} processes, and this one has "
                f"{self._adapter.process.world_size}: each has random numbers and data of its own. Start as many."
            )
        if run["completed_epochs"] > self._num_epochs:
            raise CheckpointMismatchError(
                f"{name} is of a run that has completed {run['completed_epochs']} epochs, and num_epochs is "
                f"{self._num_epochs}: num_epochs counts from the beginning of training, so it can't be smaller."
            )
        if run["completed_epochs"] == self._num_epochs and run["batches_done"] > run["first_batch"]:
            raise CheckpointMismatchError(
                f"{name} was made in epoch {run['completed_epochs']}, counted from 0, and num_epochs is "
                f"{self._num_epochs}, so that it would end before it: num_epochs counts from the beginning of training."
            )
        if state["processes"][0]["data"]["read_as"] == DataOfHost.__name__:
            check_is_between_epochs(run["batches_done"] - run["first_batch"])
        elif run["batches_done"] > run["first_batch"]:
            self._check_place_in_data(found, name)
        _warn_of_other_versions(found["versions"], name)

    def _check_data(self, state: dict[str, Any], name: str) -> None:
        """Other data has no place within an epoch, and between two it is worth a word."""
        saved, run = state["configuration"].get("data"), state["run"]
        differs = [] if saved is None or self._data is None else differences(saved, self._data)
        if not differs:
            return
        what = f"The training dataset isn't like that of {name}: {'; '.join(differs)}."
        # Other seeds change the order only; where TensorFlow says where an iterator is, not even that of this epoch.
        is_other = any(not each.startswith(SEEDS) for each in differs)
        if is_other and run["batches_done"] > run["first_batch"]:
            raise CheckpointMismatchError(
                f"{what} The checkpoint was made within an epoch, so that its place in the data is unknown. Give the "
                "same data; after a whole epoch it can change."
            )
        warnings.warn(
            f"{what} Training goes on with the data of now; a run that never stopped would have had the other.",
            MlpugWarning,
            stacklevel=5,
        )

    def _check_place_in_data(self, found: dict[str, Any], name: str) -> None:
        """Within an epoch, so many batches mean something only where batches and epochs are the same."""
        for what, expected in self._batches().items():
            if found[what] != expected:
                raise CheckpointMismatchError(
                    f"{name} was made within an epoch, where {what} was {found[what]}, and it is {expected} now, so "
                    "that its place in the data is unknown. Give the same dataset, batch size and "
                    "num_batches_per_epoch; after a whole epoch they can change."
                )


def _batch_size(dataset: Any) -> int | None:
    """In samples; None where the dataset doesn't say."""
    size = getattr(dataset, "batch_size", None)
    return size if type(size) is int else None


def _versions() -> dict[str, str]:
    """Of mlpug, and of the libraries that are loaded and compute something."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    return {"mlpug": __version__} | {name: str(version) for name, version in loaded.items() if version is not None}


_LIBRARIES = ("numpy", "torch", "pytorch_lightning", "lightning", "keras", "tensorflow", "jax")


def _warn_of_other_versions(found: dict[str, str], name: str) -> None:
    here = _versions()
    others = [f"{of} {found[of]} there, {here[of]} here" for of in found if found[of] != here.get(of, found[of])]
    if others:
        warnings.warn(
            f"{name} is of a run with other versions: {'; '.join(others)}. Training goes on from it; whether it equals "
            "a run that never stopped is up to them.",
            MlpugWarning,
            stacklevel=5,
        )
