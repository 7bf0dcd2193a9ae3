"""Training data in the forms that ``model.fit`` takes, as batches in the order in which ``fit`` gives them."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import convert_to_sliceable
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights
from keras.src.trainers.data_adapters.tf_dataset_adapter import make_class_weight_map_fn

from mlpug.errors import ConfigurationError, DatasetError
from mlpug_keras.batches import to_native
from mlpug_keras.fit_step import host

_FORMS = "(x,), (x, y) or (x, y, sample_weight)"


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What ``fit`` is told about training data."""

    batch_size: int | None = None  # of data given as arrays; None: 32, as in fit
    shuffle: bool | str = True  # of arrays and of a PyDataset; "batch": the samples within each batch of arrays
    class_weight: Mapping[int, float] | None = None


def as_batches(given: Any, options: FitOptions) -> tuple[Any, Mapping[int, float] | None]:
    """What gives the batches, and the class weights that are still to be applied to each of them.

    A tuple is data as arrays, in the form that ``fit`` takes: ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``, each
    an array, or a list or dict of arrays. So is a single array or dict. A list is a list of batches.

    Raises:
        ConfigurationError: a list or a tuple that could be either, arrays of different lengths, or a batch_size for
            batches that are there already.
    """
    parts = _arrays_in(given)
    if parts is not None:
        return ArrayBatches(parts, options), None
    if options.batch_size is not None:
        raise ConfigurationError(
            f"batch_size is for training data given as arrays, and this is a {type(given).__name__}, which has batches "
            "already: leave batch_size out."
        )
    tensorflow = sys.modules.get("tensorflow")
    if options.class_weight and tensorflow is not None and isinstance(given, tensorflow.data.Dataset):
        return given.map(make_class_weight_map_fn(options.class_weight)), None
    if isinstance(given, keras.utils.PyDataset) and given.num_batches is not None:
        return IndexedBatches(given, bool(options.shuffle)), options.class_weight
    return given, options.class_weight


class ArrayBatches:
    """Batches of arrays, drawn as ``fit`` draws them, by index within an epoch.

    Attributes:
        batch_size: in samples.
        draws_to_build: whether the order is drawn once more before the first epoch: ``fit`` does on JAX, where it takes
            a first batch to build the model with.
    """

    def __init__(self, parts: tuple[Any, ...], options: FitOptions) -> None:
        x, y, sample_weight = (*parts, None, None)[:3]
        try:
            adapter = ArrayDataAdapter(
                x,
                y,
                sample_weight=sample_weight,
                batch_size=options.batch_size,
                shuffle=options.shuffle,
                class_weight=options.class_weight,
            )
        except ValueError as error:
            raise ConfigurationError(f"The training data can't be cut into batches as fit does: {error}") from error
        self.batch_size: int = adapter.batch_size
        self.draws_to_build = False
        self._num_samples: int = adapter._num_samples
        self._num_batches: int = adapter.num_batches
        self._shuffle = options.shuffle
        target = "jax" if keras.config.backend() == "jax" else "numpy"
        self._arrays = convert_to_sliceable(adapter._inputs, target_backend=target)
        self._order: Any = None
        self._own = np.random.default_rng(0)  # what TrainingManager(seed=...) seeds is told by it
        self._unseeded = self._own.bit_generator.state

    def __len__(self) -> int:
        return self._num_batches

    @property
    def has_equal_batches(self) -> bool:
        """Whether the last one is as long as the others."""
        return self._num_samples % self.batch_size == 0

    def on_epoch_end(self) -> None:
        """Nothing changes."""

    def on_epoch_begin(self) -> None:
        """Draw the order of the epoch."""
        if self._order is None and self.draws_to_build and self._shuffle:
            np.random.permutation(self.batch_size if self._shuffle == "batch" else self._num_samples)
        self._order = self._drawn() if self._shuffle else np.arange(self._num_samples)

    def __getitem__(self, index: int) -> Any:
        places = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        if not self._shuffle:
            places = slice(index * self.batch_size, min((index + 1) * self.batch_size, self._num_samples))
        return keras.tree.map_structure(lambda array: _taken(array, places), self._arrays, none_is_leaf=False)

    def _drawn(self) -> Any:
        if host.seed() is not None and self._own.bit_generator.state == self._unseeded:
            # fit draws from TensorFlow's seed, where there is one: the same order in every epoch.
            numbers = ArrayDataAdapter(np.arange(self._num_samples), batch_size=self.batch_size, shuffle=self._shuffle)
            return np.concatenate([batch.numpy() for batch in numbers.get_tf_dataset()])
        if self._shuffle != "batch":
            return np.random.permutation(self._num_samples)
        starts = range(0, self._num_samples, self.batch_size)
        lengths = [min(self.batch_size, self._num_samples - start) for start in starts]
        return np.concatenate(
            [np.random.permutation(length) + start for start, length in zip(starts, lengths, strict=True)]
        )


class IndexedBatches:
    """A `keras.utils.PyDataset` with the order of its batches drawn as ``fit`` draws it.

    Attributes:
        dataset: the PyDataset.
        draws_to_build: as in `ArrayBatches`.
    """

    def __init__(self, dataset: Any, shuffle: bool) -> None:
        self.dataset = dataset
        self.draws_to_build = False
        self._shuffle = shuffle
        self._order: list[int] | None = None

    def __len__(self) -> int:
        length: int = self.dataset.num_batches
        return length

    def on_epoch_end(self) -> None:
        """Pass it on; before the first epoch, do what ``fit`` does with the dataset until then."""
        if self._order is None and keras.config.backend() == "tensorflow":
            for index in range(min(2, len(self))):  # to see what batches are like
                self.dataset[index]
        elif self._order is None and self.draws_to_build:
            self.dataset.on_epoch_begin()
            self.dataset[self._drawn()[0]]
        self.dataset.on_epoch_end()

    def on_epoch_begin(self) -> None:
        """Pass it on, and draw the order of the epoch."""
        self.dataset.on_epoch_begin()
        self._order = self._drawn()

    def __getitem__(self, index: int) -> Any:
        assert self._order is not None
        return self.dataset[self._order[index]]

    def _drawn(self) -> list[int]:
        order = list(range(len(self)))
        if self._shuffle:
            random.shuffle(order)
        return order


def as_fit_batch(given: Any, is_native: Any, class_weight: Mapping[int, float] | None) -> Any:
    """A batch as a model's ``train_step`` gets it from ``fit``.

    Raises:
        DatasetError: there are class weights, and it has sample weights of its own, or no targets.
    """
    batch = to_native(tuple(given) if isinstance(given, list) else given, is_native)
    if class_weight is None:
        return batch
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise DatasetError(
            "class_weight makes sample weights of the targets, so a batch must be (x, y), and this one is "
            f"{'a tuple of ' + str(len(batch)) if isinstance(batch, tuple) else 'a ' + type(batch).__name__}. Leave "
            "class_weight out, or give (x, y)."
        )
    return (*batch, class_weight_to_sample_weights(batch[1], class_weight))


def _arrays_in(given: Any) -> tuple[Any, ...] | None:
    """(x, y, sample_weight) where the data is given as arrays, as far as they are there; None: it gives batches."""
    if isinstance(given, list):
        if given and all(_is_array(item) for item in given):
            raise ConfigurationError(
                f"The training data is a list of {len(given)} arrays, which may be {_FORMS} or a list of batches. Give "
                "a tuple for the first, and a list of tuples, such as [(x,), (x,)], for the second."
            )
        return None
    if not isinstance(given, tuple):
        is_data = _is_array(given) or (isinstance(given, Mapping) and can_convert_arrays(given))
        return (given,) if is_data else None
    if not 1 <= len(given) <= 3 or not can_convert_arrays(given) or any(isinstance(part, tuple) for part in given):
        raise ConfigurationError(
            f"Training data as a tuple must be {_FORMS}, each an array, or a list or dict of arrays, and this is a "
            f"tuple of {len(given)}: {', '.join(type(part).__name__ for part in given)}. Give a list of batches as a "
            "list, and several inputs or outputs as a list or a dict."
        )
    return given


def _is_array(given: Any) -> bool:
    return not isinstance(given, (list, tuple, Mapping)) and given is not None and can_convert_arrays(given)


def _taken(array: Any, places: Any) -> Any:
    part = array[places]
    if keras.config.backend() == "jax":
        return array.convert_to_jax_compatible(part)
    return part if hasattr(part, "_type_spec") else array.convert_to_numpy(part)
