"""What is JAX's own about a model that is trained by its own ``fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse

from mlpug_keras.batch_loss import DID_UPDATE, BatchLoss, iterations_to_watch
from mlpug_keras.compiled_model import is_built, patched
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.model import Latest

# Gets what does the step on a batch and returns its logs, and returns the logs for fit.
Train = Callable[[Callable[[Any], Any]], Any]
# What ``fit`` takes for the end of the data where its train function raises it.
END_OF_DATA = (StopIteration,)


# What ``fit`` and ``evaluate`` show their `EpochIterator` to, when it is made.
BUILD = "_symbolic_build"


def needs_batch(model: keras.Model) -> bool:
    """Whether ``fit`` takes a batch to build the model with, before anything else."""
    return not is_built(model)


def shown(batch: Any) -> Any:
    """A batch of ``fit`` as callbacks see it."""
    return batch


def described(leaf: Any) -> str | None:
    """What an array of a batch is like, by which a resumed run builds the model: ``float32 32 8``."""
    if leaf is None:
        return None
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    words = [keras.backend.standardize_dtype(array.dtype), *map(str, array.shape)]
    return " ".join(["sparse", *words] if isinstance(array, JAXSparse) else words)


def as_described(words: str | None) -> Any:
    """A symbolic tensor that is like that."""
    if words is None:
        return None
    dtype, *shape = words.removeprefix("sparse ").split(" ")
    return keras.KerasTensor(tuple(map(int, shape)), dtype, sparse=words.startswith("sparse "))


def rebuild(model: keras.Model, batch: Any) -> None:
    """Create all variables, before a run is resumed."""
    model._symbolic_build(data_batch=batch)


def sync(model: keras.Model) -> None:
    """Write the values that ``fit`` carries from step to step into the variables."""
    model.jax_state_sync()


def tested(model: keras.Model, batch: Any) -> Any:
    """What the model's own ``test_step`` tells of the batch; its variables have the latest values."""
    groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
    # The step is given its values away, and what evaluates in between must not lose them.
    state = tuple([jnp.array(variable.value) for variable in variables] for variables in groups)
    logs, (*_, metrics) = model.test_function(state, iter([batch]))
    for variable, value in zip(model.metrics_variables, metrics, strict=True):
        variable.assign(value)
    return logs


def counting(get_iterator: Callable[[], Any], on_made: Callable[[], None]) -> Callable[[], Any]:
    """The same, telling of each iterator of a `tf.data.Dataset`, which is made when it is asked for a batch."""

    def batches() -> Any:
        iterator = get_iterator()

        def from_first() -> Iterator[Any]:
            on_made()
            yield from iterator

        return from_first()

    return batches


def iterators_of_epoch(length: int | None) -> int:
    """How many iterators ``fit`` makes of a `tf.data.Dataset` for an epoch."""
    return 1


def reads_to_end(data: Any) -> bool:
    """Whether ``fit`` asks data for its end in the background: on devices it is one batch ahead, but not there."""
    return False


def reads_in_background(data: Any) -> bool:
    """Whether a thread of the backend calls the data's own Python code: not here."""
    return False


def tf_dataset(epoch_iterator: Any) -> Any:
    """The `tf.data.Dataset` that Keras's `EpochIterator` iterates."""
    return epoch_iterator.data_adapter._dataset


def set_tf_dataset(epoch_iterator: Any, dataset: Any) -> None:
    """Have it iterate another."""
    epoch_iterator.data_adapter._dataset = dataset


class OrderOfArrays:
    """How ``fit`` shuffles arrays: by numpy's global random numbers, which are kept like all others.

    Args:
        seed: of the user's.
    """

    def __init__(self, seed: int | None) -> None:
        pass

    def get_state(self) -> None:
        """There is none."""

    def set_state(self, state: None) -> None:
        """There is none."""

    def begin(self, number: int) -> None:
        """An iterator begins."""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Nothing is changed."""
        yield


def seed() -> None:
    """JAX has no seed of its own that anything is drawn from."""


def set_seed(seed: None) -> None:
    """There is none."""


def learning_rate(model: keras.Model) -> float:
    """That of the next step, without writing all values into the variables."""
    state = getattr(model, "_jax_state", None)
    if not state or model._jax_state_synced:
        return float(model.optimizer.learning_rate)
    pairs = zip(model.optimizer.variables, state["optimizer_variables"], strict=True)
    with keras.StatelessScope(state_mapping=list(pairs)):
        return float(model.optimizer.learning_rate)


def telling_loss(
    model: keras.Model,
    loss: Callable[[Callable[[Any], bool]], BatchLoss],
    keeps_states: Callable[[], bool],
) -> Any:
    """The model's step, with the loss of the batch in its logs, and where it may be no update, whether it is one."""
    train_step, iterations = model.train_step, iterations_to_watch(model)

    def step(state: Any, data: Any) -> Any:
        trace = next(
            (leaf._trace for leaf in jax.tree.leaves((state, data)) if isinstance(leaf, jax.core.Tracer)), None
        )

        def is_usable(value: Any) -> bool:
            return not isinstance(value, jax.core.Tracer) or value._trace is trace

        with loss(is_usable).heard() as found:
            logs, new_state = train_step(state, data)
        if iterations is not None:
            place = next(place for place, each in enumerate(model.optimizer.variables) if each is iterations)
            found[DID_UPDATE] = new_state[2][place] != state[2][place]
        return ({**logs, **found} if isinstance(logs, dict) else logs), new_state

    return step


def with_logs(result: Any, heard: Callable[[Any], Any]) -> Any:
    """What the native function returns, with other logs."""
    logs, state = result
    return heard(logs), state


def show_state(model: keras.Model, result: Any) -> None:
    """Let `sync` find what the native function returned, as it will when ``fit`` has taken it."""
    _, (trainable, non_trainable, of_optimizer, of_metrics) = result
    model._jax_state = {
        "trainable_variables": trainable,
        "non_trainable_variables": non_trainable,
        "optimizer_variables": of_optimizer,
        "metrics_variables": of_metrics,
    }


def nothing_runs_out() -> None:
    """A step that finds no batch changes nothing."""


def as_train_function(
    train: Train, step: Any, latest: Latest, model: keras.Model, feed: FitFeed
) -> tuple[Any, Callable[[], None]]:
    """What ``fit`` calls for each batch: `train` gets what calls the step on the batch.

    And what does what a step does that finds no batch.
    """
    with patched(model, train_step=step):
        model.make_train_function(force=True)
    native = model.train_function

    def train_function(state: Any, iterator: Any) -> Any:
        new_state = state

        def on_batch(batch: Any) -> Any:
            nonlocal new_state
            try:
                logs, new_state = native(state, iter([batch]))
            except BaseException:
                latest.is_updating = any(value.is_deleted() for value in jax.tree.leaves(state))
                _give_back(model, None if latest.is_updating else state)
                raise
            return logs

        return train(on_batch), new_state

    return train_function, nothing_runs_out


def as_chunked_function(train: Train, step: Callable[[], Any], model: keras.Model) -> Any:
    """The same where `step` finds all values in the variables, and leaves the new ones there."""

    def train_function(state: Any, iterator: Any) -> Any:
        groups = [
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        ]
        for variables, values in zip(groups, state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable._direct_assign(value)
        logs = train(lambda _: step())
        return logs, tuple([variable._value for variable in variables] for variables in groups)

    return train_function


def _give_back(model: keras.Model, state: Any) -> None:
    """Let ``fit`` write these values into the variables when it ends, which it emptied when the epoch began."""
    names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
    model._jax_state = None if state is None else dict(zip(names, state, strict=True))
    model._jax_state_synced = False
