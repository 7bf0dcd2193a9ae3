"""Training data in the forms that ``model.fit`` takes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import keras
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import train_validation_split
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights

from mlpug.errors import ConfigurationError, DatasetError
from mlpug_keras.batches import to_native

_FORMS = "(x,), (x, y) or (x, y, sample_weight)"


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What ``fit`` is told about training data."""

    batch_size: int | None = None  # of data given as arrays; None: 32, as in fit
    shuffle: bool | str = True  # of arrays and of a PyDataset; "batch": the samples within each batch of arrays
    class_weight: Mapping[int, float] | None = None
    validation_split: float = 0.0  # the last part of arrays, which isn't trained on


@dataclass(frozen=True, slots=True)
class FitData:
    """Training data as the arguments of ``fit``."""

    x: Any
    y: Any
    sample_weight: Any
    has_arrays: bool  # which fit cuts into batches
    steps_per_epoch: int | None
    options: FitOptions

    def arguments(self) -> dict[str, Any]:
        """What ``fit`` is called with."""
        options = self.options
        return {
            "x": self.x,
            "y": self.y,
            "sample_weight": self.sample_weight,
            "batch_size": options.batch_size,
            "shuffle": options.shuffle if self._can_shuffle() else False,  # Keras warns of a True that means nothing
            "class_weight": options.class_weight,
            "validation_split": options.validation_split,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def num_batches(self) -> int | None:
        """Those of one round through the data; None where nobody knows.

        Raises:
            ConfigurationError: ``fit`` would refuse the data, or an argument beside it.
        """
        if isinstance(self.x, GeneratorType):  # Keras would ask it for batches
            if self.options.class_weight is not None:
                raise ConfigurationError(
                    "class_weight can't be given beside a generator: let it yield (x, y, sample_weight)."
                )
            return None
        given = self.arguments()
        split = given.pop("validation_split")
        parts = {name: given[name] for name in ("x", "y", "sample_weight")}
        try:
            if split:
                (x, y, sample_weight), _ = train_validation_split(tuple(parts.values()), validation_split=split)
                parts = {"x": x, "y": y, "sample_weight": sample_weight}
            adapter = get_data_adapter(**{**given, **parts})
        except ValueError as error:
            raise ConfigurationError(f"The training data can't be cut into batches as fit does: {error}") from error
        number: int | None = adapter.num_batches
        return number

    def why_not_again(self) -> str | None:
        """What a resumed run can't give again as it was, and the cure; None: nothing."""
        if self.steps_per_epoch is None or not leaves_batches_over(self.x, self.steps_per_epoch):
            return None
        return (
            f"The workers of a {type(self.x).__name__} load more batches than the {self.steps_per_epoch} of an epoch, "
            "and Keras begins the next one with those: a resumed run has other batches than this one would have had. "
            "Leave out num_batches_per_epoch, or give the dataset workers=1."
        )

    def _can_shuffle(self) -> bool:
        return self.has_arrays or (isinstance(self.x, keras.utils.PyDataset) and self.x.num_batches is not None)

    def batches_to_evaluate(self) -> Any:
        """What gives the batches in their own order, without drawing where that is possible."""
        if not self.has_arrays:
            return self.x
        adapter = get_data_adapter(self.x, self.y, self.sample_weight, batch_size=self.options.batch_size)
        return adapter.get_numpy_iterator()


def fit_data(given: Any, options: FitOptions, steps_per_epoch: int | None) -> FitData | None:
    """The data as arguments of ``fit``, or None where ``fit`` doesn't take it: it is then what gives the batches.

    A tuple is data as arrays, in the form that ``fit`` takes: ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``, each
    an array, or a list or dict of arrays. So is a single array or dict. A list is a list of batches.

    Raises:
        ConfigurationError: a list or a tuple that could be either, arrays of different lengths, or arguments for arrays
            beside batches that are there already.
    """
    parts = _arrays_in(given)
    if parts is not None:
        x, y, sample_weight = (*parts, None, None)[:3]
        return FitData(x, y, sample_weight, True, steps_per_epoch, options)
    for name, value in (("batch_size", options.batch_size), ("validation_split", options.validation_split)):
        if value:
            raise ConfigurationError(
                f"{name} is for training data given as arrays, and this is a {type(given).__name__}, which has batches "
                f"already: leave {name} out."
            )
    return FitData(given, None, None, False, steps_per_epoch, options) if _is_taken(given) else None


def _is_taken(given: Any) -> bool:
    """Whether ``fit`` takes what gives batches; a generator isn't touched."""
    if isinstance(given, GeneratorType):
        return True
    if isinstance(given, list) or not hasattr(given, "__class__"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            get_data_adapter(given)
        except ValueError:
            return False
    return True


def as_fit_batch(given: Any, is_native: Any, class_weight: Mapping[int, float] | None) -> Any:
    """A batch as a model's ``train_step`` gets it, where ``fit`` isn't the one who drew it.

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


def leaves_batches_over(data: Any, num_steps: int) -> bool:
    """Whether workers have loaded batches of a finite PyDataset that so many steps don't ask for."""
    has_workers = isinstance(data, keras.utils.PyDataset) and data.workers > 1
    return has_workers and data.num_batches is not None and num_steps < data.num_batches


def is_tf_dataset(given: Any) -> bool:
    """Whether it is a `tf.data.Dataset`; TensorFlow isn't imported to find out."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(given, tensorflow.data.Dataset)
