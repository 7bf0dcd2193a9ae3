"""What a compiled model needs to go on in a resumed run: as plain data and arrays, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug.optimizer_settings import CHECKPOINT
from mlpug.plain import from_plain, to_plain
from mlpug.trees import map_leaves
from mlpug_keras.arrays import as_array, as_value
from mlpug_keras.compiled_model import is_built
from mlpug_keras.fit_step import host
from mlpug_keras.held_variables import HeldVariables, arrays_of, assign
from mlpug_keras.optimized import build_optimizer, optimized_paths
from mlpug_keras.settings import ScriptSettings
from mlpug_keras.state import (
    check_optimizers,
    held_variables,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)


class PortedState:
    """The state of a compiled model, its optimizers and its metrics."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._batch: Any = None  # what a batch is like, by which a resumed run builds the model
        self._metrics_to_load: list[Any] = []
        self._script = ScriptSettings({})
        self._optimizer_settings = CHECKPOINT  # whose, of a resumed run
        self._kept_metrics: list[Any] | None = None  # those of the training data, while validation uses the variables

    def note_settings(self) -> None:
        """Training starts: the optimizers are set as the script has set them."""
        self._script = ScriptSettings(self._optimizers())

    def see(self, batch: Any) -> None:
        """Note what batches are like."""
        if self._batch is None:
            self._batch = map_leaves(host.described, batch)  # a step that is traced for any length has ? for that

    def keep_metrics(self) -> None:
        """Validation begins, which uses the variables of the metrics for itself."""
        self._kept_metrics = self._metrics()

    def go_on(self) -> None:
        """The variables hold the metrics of the training data again."""
        self._kept_metrics = None

    def load_metrics(self) -> None:
        """The metrics were reset, the first time because an epoch begins: give a resumed one its running sums."""
        values, self._metrics_to_load = self._metrics_to_load, []
        if values:
            for variable, value in zip(self._model.metrics_variables, values, strict=True):
                variable.assign(value)

    def forget_metrics(self) -> None:
        """The run goes on between two epochs."""
        self._metrics_to_load = []

    def get(self, logs: Mapping[str, Any], instead: Mapping[int, Any]) -> dict[str, Any]:
        """All of it, with what the step said last; `instead` as in `model_state`."""
        metrics = self._metrics() if self._kept_metrics is None else self._kept_metrics
        optimizers = self._optimizers()
        return {
            **model_state(self._model, {"model": self._model}, instead),
            "optimizers": {
                name: self._script.added_to(optimizer_state(each, instead), name, each)
                for name, each in optimizers.items()
            },
            "from_keras": {
                "batch": to_plain(self._batch),
                "optimized": {name: optimized_paths(self._model, each) for name, each in optimizers.items()},
                "metrics": {str(number): value for number, value in enumerate(metrics)},
                "logs": to_plain(map_leaves(_as_numbers, dict(logs))),
                "seed": host.seed(),
                "held": arrays_of(self.held().variables),
            },
        }

    def load(self, state: Mapping[str, Any], optimizer_settings: str) -> dict[str, Any]:
        """Give it back, and return the logs; metrics get theirs when the epoch begins.

        Args:
            state: what `get` gave, and more.
            optimizer_settings: whose, see `Adapter.load_state`.

        Raises:
            CheckpointMismatchError: it is of another model or optimizer, or of a trainer that from_keras didn't make.
        """
        if "from_keras" not in state:
            raise CheckpointMismatchError(
                "The checkpoint is of a trainer that wasn't made by from_keras: make this one as that one was made."
            )
        self.note_settings()
        self._optimizer_settings = optimizer_settings
        own = state["from_keras"]
        self._build(state["optimizers"], from_plain(own["batch"]), own.get("optimized", {}))
        optimizers = self._known_to(state)
        check_optimizers(optimizers, state["optimizers"])
        # A native run is resumed between epochs only, without metrics.
        metrics = [as_value(value) for value in own["metrics"].values()] if own["batch"] is not None else []
        expected = [tuple(variable.shape) for variable in self._model.metrics_variables]
        if metrics and [tuple(value.shape) for value in metrics] != expected:
            raise CheckpointMismatchError(
                f"The model has other metrics than in the checkpoint: expected variables of the shapes {expected}, "
                f"found {[tuple(value.shape) for value in metrics]}. Compile it with the metrics that it had."
            )
        self._give_back(state, optimizers)
        self._batch, self._metrics_to_load = from_plain(own["batch"]), metrics
        host.set_seed(own["seed"])
        logs: dict[str, Any] = from_plain(own["logs"])
        return logs

    def give_back(self, state: Mapping[str, Any]) -> None:
        """The same once more, of a state that was loaded, but for what comes when the epoch begins."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MlpugWarning)  # which was said when it was loaded
            self._give_back(state, self._known_to(state))

    def _give_back(self, state: Mapping[str, Any], optimizers: Mapping[str, Any]) -> None:
        load_model_state(self._model, {"model": self._model}, state)
        for name, optimizer in optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        self._script.load(optimizers, state["optimizers"], self._optimizer_settings)
        assign(self.held().variables, state["from_keras"].get("held", {}), "the model")

    def _known_to(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The optimizers without those that mlpug 0.1 didn't look for, where the checkpoint is one of its."""
        optimizers = self._optimizers()
        if "held" in state["from_keras"]:
            return optimizers
        new = [name for name in optimizers if name not in state["optimizers"] and "." in name]
        if new:
            warnings.warn(
                f"The checkpoint is of mlpug 0.1, and has no states of the optimizers {', '.join(new)} of the model: "
                "they begin anew.",
                MlpugWarning,
                stacklevel=2,
            )
        return {name: optimizer for name, optimizer in optimizers.items() if name not in new}

    def _build(self, states: Mapping[str, Any], batch: Any, optimized: Mapping[str, list[str] | None]) -> None:
        self._build_optimizers(optimized)  # first: Keras would build the compiled one on all weights
        if batch is not None and not is_built(self._model):
            host.rebuild(self._model, map_leaves(host.as_described, batch))
            self._build_optimizers(optimized)
        missing = [
            name
            for name, optimizer in self._optimizers().items()
            if len(states.get(name, {"variables": ()})["variables"]) > len(optimizer.variables)
        ]
        if batch is not None and missing not in ([], ["optimizer"]):
            host.rebuild(self._model, map_leaves(host.as_described, batch))
        optimizer = self._model.optimizer
        if "optimizer" in missing and not optimizer.built:
            optimizer.build(self._model.trainable_variables)

    def _build_optimizers(self, optimized: Mapping[str, list[str] | None]) -> None:
        for name, optimizer in self._optimizers().items():
            build_optimizer(self._model, optimizer, optimized.get(name))

    def _optimizers(self) -> dict[str, Any]:
        """The compiled one, and what else the model has: in its attributes, in lists, wherever it leads to."""
        found = {} if self._model.optimizer is None else {"optimizer": self._model.optimizer}
        for name, value in vars(self._model).items():
            if isinstance(value, keras.optimizers.Optimizer) and all(value is not other for other in found.values()):
                found[name] = value
        return {**held_variables({"": self._model}, found.values()).optimizers, **found}

    def held(self) -> HeldVariables:
        """What the model holds besides its weights, seeds, metrics and optimizers."""
        return held_variables({"": self._model}, self._optimizers().values())

    def _metrics(self) -> list[Any]:
        return [np.array(as_array(variable)) for variable in self._model.metrics_variables]


def _as_numbers(value: Any) -> Any:
    return np.array(as_array(value)) if keras.ops.is_tensor(value) else value
