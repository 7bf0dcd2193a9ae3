"""The logs object as what a checkpoint holds, and back.

A level of the logs is a plain dict, so that names in the file are the logs' own; a dict that is a value, such as what a
metric returned, is written as its items (see `mlpug.plain`), and so told from a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpug.errors import CheckpointMismatchError, StateError
from mlpug.logs import Logs
from mlpug.plain import from_plain, is_marked, to_plain


def logs_to_plain(logs: Logs, path: tuple[str, ...] = ("logs",)) -> dict[str, Any]:
    """Everything in the logs, every value read, as plain data; tensors as numpy arrays.

    Raises:
        StateError: A value that a checkpoint can't hold; its path is in the message.

    >>> logs_to_plain(Logs(epoch=3, current=Logs(validation=Logs(dataset=Logs(score=(0.5, {"a": 1}))))))
    {'epoch': 3, 'current': {'validation': {'dataset': {'score': {'__tuple__': [0.5, {'a': 1}]}}}}}
    """
    plain = {}
    for name, value in logs.items():
        if isinstance(value, Logs):
            plain[name] = logs_to_plain(value, (*path, name))
        else:
            plain[name] = _value_to_plain(value, (*path, name))
    if is_marked(plain):
        raise StateError(
            f"The state at '{'/'.join(path)}' has one value only, by the name {next(iter(plain))!r}, which stands for "
            "something else in a checkpoint. Give it a name that doesn't start and end with two underscores."
        )
    return plain


def logs_as_dict(plain: dict[str, Any]) -> dict[str, Any]:
    """What `logs_to_plain` made, as nested dicts with the values that were in the logs.

    >>> logs_as_dict(logs_to_plain(Logs(current=Logs(score=(1, 2)))))
    {'current': {'score': (1, 2)}}
    """
    as_dict = from_plain(plain, _as_it_is)
    if type(as_dict) is not dict:
        raise CheckpointMismatchError(f"The logs of the checkpoint are a {type(as_dict).__name__}, not a dict.")
    return as_dict


def restore_logs(logs: Logs, plain: dict[str, Any]) -> None:
    """Make the logs hold what `logs_to_plain` was given; levels stay the same `Logs` objects where they are there.

    >>> batch = Logs()
    >>> logs = Logs(epoch=0, current=Logs(training=Logs(batch=batch)))
    >>> restore_logs(logs, {"epoch": 3, "current": {"training": {"batch": {"loss": 0.5}}}})
    >>> logs["epoch"], batch
    (3, Logs({'loss': 0.5}))
    """
    for name in [name for name in logs if name not in plain]:
        if _is_level(logs, name):
            restore_logs(logs.child(name), {})
        else:
            del logs[name]
    for name, value in plain.items():
        if type(value) is not dict or is_marked(value):
            logs[name] = from_plain(value, _as_it_is)
            continue
        if name in logs and not _is_level(logs, name):
            del logs[name]
        restore_logs(logs.child(name), value)


def _is_level(logs: Logs, name: str) -> bool:
    """Whether there are logs below this name; unlike `logs[name]`, this computes no value."""
    below: Any = logs.child(name)
    return isinstance(below, Logs)


def _value_to_plain(value: Any, path: tuple[str, ...]) -> Any:
    plain = to_plain(value, _tensor_as_array, path)
    if type(plain) is dict and not is_marked(plain):
        return {"__dict__": [[key, item] for key, item in plain.items()]}
    return plain


def _tensor_as_array(value: Any) -> Any:
    """The numbers of another library's array; what reads logs can go on with them on any backend."""
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__array__"):
        return NotImplemented
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):  # numbers that numpy hasn't, or none at all
        return NotImplemented


def _as_it_is(value: Any) -> Any:
    return value
