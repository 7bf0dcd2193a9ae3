"""Averages of the weights, which Lightning's `WeightAveraging` keeps beside the module, and puts into it for a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from mlpug.errors import CheckpointMismatchError
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.arrays import leaf_from_plain, leaf_to_plain
from mlpug_lightning.host import pl, replaced

_Averaging = pl.callbacks.WeightAveraging


def is_averaging(callback: Any) -> bool:
    """Whether it is one of Lightning's, or one of the user's made of it that saves nothing more."""
    hooks = ("on_save_checkpoint", "on_load_checkpoint")
    return isinstance(callback, _Averaging) and all(
        getattr(type(callback), hook) is getattr(_Averaging, hook) for hook in hooks
    )


def averages_in(callbacks: Iterable[Any]) -> Any:
    """The module with the averages, which is what a model is saved as; None where nobody averages.

    Of several callbacks the last one counts, as in Lightning's own checkpoints.
    """
    found = [callback._average_model for callback in callbacks if is_averaging(callback)]
    return found[-1].module if found and found[-1] is not None else None


def averaged_state(callback: Any) -> Any:
    """The averages, and what else the callback's own state leaves out; None before there are any."""
    if callback._average_model is None:
        return None
    model = callback._average_model.state_dict()
    return to_plain({"model": dict(model), "latest_update_epoch": callback._latest_update_epoch}, leaf_to_plain)


def load_averaged_state(callback: Any, state: Any, was_there: bool, module: pl.LightningModule) -> None:
    """Give them back, once the callback is set up.

    Args:
        callback: that averages.
        state: what `averaged_state` gave, or None.
        was_there: whether the run had this callback.
        module: that is trained; with the weights that it goes on with.
    """
    if state is None and was_there:
        raise CheckpointMismatchError(
            f"The checkpoint has no averages of {type(callback).__name__}: it is of mlpug 0.1, which didn't keep them. "
            "Leave the callback out, or start anew from the weights, by mlp.load_model_checkpoint(path)."
        )
    if state is None:  # it begins here, as one of Lightning's own does
        callback._average_model.module.load_state_dict(copy.deepcopy(module.state_dict()))
        return
    native = from_plain(state, leaf_from_plain)
    callback._average_model.load_state_dict(native["model"])
    callback._latest_update_epoch = native["latest_update_epoch"]


class TrainedWeights:
    """Knows when the averages stand in the module, as they do in a validation, and puts the trained weights back."""

    def __init__(self) -> None:
        self._swapped: list[Any] = []  # callbacks whose averages stand there, in their order

    @contextmanager
    def noted(self, callbacks: Iterable[Any]) -> Iterator[None]:
        """Within a ``fit`` with these callbacks."""
        self._swapped = []
        with ExitStack() as stack:
            for each in filter(is_averaging, callbacks):
                swap = partial(self._swap, each, each._swap_models)
                stack.enter_context(replaced(each, "_swap_models", swap))
            yield

    def taken(self, module: Any, take: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `take` gives, with the trained weights in the module."""
        swapped = list(self._swapped)
        if not swapped:
            return take()
        for callback in reversed(swapped):
            _Averaging._swap_models(callback, module)
        try:
            return copy.deepcopy(take())  # of weights that are about to change
        finally:
            for callback in swapped:
                _Averaging._swap_models(callback, module)

    def _swap(self, callback: Any, swap: Callable[[Any], None], module: Any) -> None:
        swap(module)
        if callback in self._swapped:
            self._swapped.remove(callback)
        else:
            self._swapped.append(callback)
