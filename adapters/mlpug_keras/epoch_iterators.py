"""Reaches into Keras's `EpochIterator`, which draws the data of ``fit`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlpug_keras.epoch_hooks import EpochHooks
from mlpug_keras.fit_step import host


class ObservedIterator:
    """A Keras `EpochIterator` that tells what it does.

    Args:
        epoch_iterator: Keras's.
        on_get: called before an iterator of the data is asked for.
        on_made: called when a `tf.data.Dataset` makes one, which draws from its seeds.
        hooks: of the data, which are called between epochs.
    """

    def __init__(
        self, epoch_iterator: Any, on_get: Callable[[], None], on_made: Callable[[], None], hooks: EpochHooks
    ) -> None:
        self._keras = epoch_iterator
        get = host.counting(epoch_iterator._get_iterator, on_made)

        def get_iterator() -> Any:
            on_get()
            return get()

        adapter = epoch_iterator.data_adapter
        begin, end = adapter.on_epoch_begin, adapter.on_epoch_end
        epoch_iterator._get_iterator = get_iterator
        adapter.on_epoch_begin = lambda: hooks.call("on_epoch_begin", begin)
        adapter.on_epoch_end = lambda: hooks.call("on_epoch_end", end)

    @property
    def goes_on(self) -> bool:
        """Whether the next epoch begins where the iterator of the last one is."""
        return bool(self._keras.steps_per_epoch) and self._keras._current_iterator is not None

    def is_at(self, iterator: Any) -> bool:
        """Whether epochs go on with this one."""
        return self._keras._current_iterator is iterator

    @property
    def dataset(self) -> Any:
        """The `tf.data.Dataset` that is iterated."""
        return host.tf_dataset(self._keras)

    @dataset.setter
    def dataset(self, dataset: Any) -> None:
        host.set_tf_dataset(self._keras, dataset)

    @property
    def num_left_over(self) -> int:
        """Batches that workers have loaded and nobody has asked for: Keras begins the next epoch with them."""
        enqueuer = self._enqueuer
        return 0 if enqueuer is None else enqueuer.ready_queue.qsize()

    def load_and_leave_over(self, num_taken: int) -> None:
        """Have the workers load an epoch of which so many batches are asked for."""
        enqueuer = self._enqueuer
        enqueuer.start()
        batches = enqueuer.get()
        for _ in range(num_taken):
            next(batches)
        batches.close()
        enqueuer.stop()

    @property
    def _enqueuer(self) -> Any:
        return getattr(self._keras.data_adapter, "enqueuer", None)

    def enumerate_by(self, enumerated: Callable[[Callable[[], Iterator[Any]]], Iterator[Any]]) -> None:
        """Let an epoch have the steps that this function makes of Keras's own."""
        steps_of = self._keras._enumerate_iterator
        self._keras._enumerate_iterator = lambda: enumerated(steps_of)

    def begin_at(self, num_batches: int) -> Any:
        """Make the iterator that epochs go on with, of which so many batches are done."""
        self._keras._current_iterator = iter(self._keras._get_iterator())
        self._keras._steps_seen = num_batches
        return self._keras._current_iterator
