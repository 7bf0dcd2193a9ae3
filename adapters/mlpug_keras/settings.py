"""What the script has set of Keras's optimizers when training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from mlpug.optimizer_settings import CHECKPOINT, CONFIGURED, Settings, scalars, warn_of_other_settings

_CURRENT = "settings"  # the key of an optimizer's state for what it has now, beside its variables
_RATE = "learning_rate"


class ScriptSettings:
    """The settings of optimizers as the script has made them, before a schedule or a checkpoint changes them.

    Args:
        optimizers: by name.
    """

    def __init__(self, optimizers: Mapping[str, keras.optimizers.Optimizer]) -> None:
        self.configured = {name: settings_of(optimizer) for name, optimizer in optimizers.items()}

    def added_to(self, state: dict[str, Any], name: str, optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
        """The state of an optimizer, with its settings, and with what a later script is compared with."""
        if name not in self.configured:
            return state
        return {**state, CONFIGURED: self.configured[name], _CURRENT: _attributes(optimizer)}

    def load(
        self, optimizers: Mapping[str, keras.optimizers.Optimizer], states: Mapping[str, Any], source: str
    ) -> None:
        """Once they have their variables, the learning rate among them: give them their settings, and tell of others.

        A ``LearningRateSchedule`` is the script's: the checkpoint has the step that it is at, and not its numbers.
        """
        for name, optimizer in optimizers.items():
            if source == CHECKPOINT:
                _set(optimizer, states[name].get(_CURRENT, {}))
            elif isinstance(self.configured.get(name, {}).get(_RATE), float):
                optimizer.learning_rate = self.configured[name][_RATE]
        used = {name: settings_of(optimizer) for name, optimizer in optimizers.items()}
        warn_of_other_settings(states, self.configured, used, source)


def settings_of(optimizer: keras.optimizers.Optimizer) -> Settings:
    """Its learning rate, or the schedule for it in words, and what else it was made with.

    >>> settings_of(keras.optimizers.SGD(0.5, momentum=0.9))["momentum"]
    0.9
    """
    own = _inner(optimizer)
    rate = _config(own).get(_RATE)
    return {_RATE: rate if isinstance(rate, float) else _in_words(rate), **_attributes(optimizer)}


def _attributes(optimizer: keras.optimizers.Optimizer) -> Settings:
    """Those that are attributes with the names of arguments: all but the learning rate, which is a variable."""
    found: Settings = {}
    for each in {id(one): one for one in (_inner(optimizer), optimizer)}.values():
        arguments = set(_config(each)) - {"name", _RATE}
        found |= scalars({key: value for key, value in vars(each).items() if key in arguments})
    return found


def _set(optimizer: keras.optimizers.Optimizer, settings: Mapping[str, Any]) -> None:
    for each in (_inner(optimizer), optimizer):
        now = _attributes(each)
        for key, value in settings.items():
            if key in vars(each) and now.get(key, value) != value:
                setattr(each, key, value)


def _config(optimizer: keras.optimizers.Optimizer) -> Mapping[str, Any]:
    """The arguments that it was made with; none of a script's own optimizer that can't say which."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of how Keras reads its rate
        try:
            config: Mapping[str, Any] = optimizer.get_config()
        except Exception:  # noqa: BLE001 - nobody but this asks for it where a model isn't saved by Keras
            return {}
    return config


def _inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The one whose loss is scaled, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _in_words(rate: Any) -> str:
    """What Keras serializes a schedule or a function to."""
    if not isinstance(rate, Mapping):
        return str(rate)
    config = rate.get("config")
    arguments = config.items() if isinstance(config, Mapping) else ()
    shown = ", ".join(f"{key}={value}" for key, value in arguments if key != "name")
    return f"{rate.get('class_name')}({shown})"
