"""What is TensorFlow's own about a model that is trained by its own ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from types import GeneratorType
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters import is_torch_dataloader
from keras.src.trainers.data_adapters.data_adapter_utils import NUM_BATCHES_FOR_TENSOR_SPEC, unpack_x_y_sample_weight
from tensorflow.python.eager import context

from mlpug.trees import map_leaves
from mlpug_keras.batch_loss import DID_UPDATE, BatchLoss, iterations_to_watch
from mlpug_keras.compiled_model import overrides, patched
from mlpug_keras.model import Latest

# Gets what does the step on a batch and returns its logs, and returns the logs for fit.
Train = Callable[[Callable[[Any], Any]], Any]


def needs_batch(model: keras.Model) -> bool:
    """Whether ``fit`` would take a batch to build the model with, before anything else."""
    return model._distribute_strategy is not None


def build(model: keras.Model, batch: Any) -> None:
    """Create what ``fit`` itself would create before the first step, which is nothing without a strategy."""
    model._maybe_symbolic_build(data_batch=batch)


def rebuild(model: keras.Model, batch: Any) -> None:
    """Create all variables, before a run is resumed: those that a step creates, by tracing it."""
    if model.run_eagerly:
        model._symbolic_build(data_batch=batch)
        return
    spec = map_leaves(lambda leaf: None if leaf is None else tf.TensorSpec(leaf.shape, leaf.dtype), batch)
    tf.function(model.train_step, autograph=False).get_concrete_function(spec)


def sync(model: keras.Model) -> None:
    """The variables have the latest values."""


def tested(model: keras.Model, batch: Any) -> Any:
    """What the model's own ``test_step`` tells of the batch."""
    return model.test_function(iter([_as_tensors(batch)]))


def spare_iterators(data: Any, num_epochs: int, num_batches: int | None) -> int:
    """How many iterators ``fit`` has made of the data after so many epochs, and never used.

    It makes one at the end of each epoch whose length the data tells, and another when the next begins. Each of them
    draws from what shuffles the dataset.
    """
    if not isinstance(data, tf.data.Dataset):
        return 0
    length = int(data.cardinality())
    return num_epochs if length >= 0 and num_batches in (None, length) else 0


def ask_before_first_epoch(model: keras.Model, data: Any) -> None:
    """Ask a torch DataLoader for what ``fit`` asks it for to see what batches are like: that draws an order."""
    if is_torch_dataloader(data):
        for _ in islice(data, NUM_BATCHES_FOR_TENSOR_SPEC):
            pass


def asks_for_end(data: Any) -> bool:
    """Whether ``fit`` asks for a batch after the last one: TensorFlow reads ahead, which only a DataLoader notices."""
    return bool(is_torch_dataloader(data))


def iterators_of_validation(data: Any, num_batches: int | None) -> int:
    """How many iterators ``fit`` makes of the data each time that it validates: see `spare_iterators`."""
    return 1 + spare_iterators(data, 1, num_batches) if isinstance(data, tf.data.Dataset) else 0


def look_at_validation_data(model: keras.Model, data: Any, num_batches: int | None, batch_size: int | None) -> None:
    """Do what ``fit`` does before it validates for the first time: it may ask for batches, to see what they are."""
    x, y, sample_weight = unpack_x_y_sample_weight(data)
    model._eval_epoch_iterator = TFEpochIterator(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=num_batches,
        shuffle=False,
        distribute_strategy=model.distribute_strategy,
        steps_per_execution=model.steps_per_execution,
    )


def seed() -> int | None:
    """TensorFlow's, from which the order of arrays is drawn; None where nobody has set it."""
    found: int | None = context.global_seed()
    return found


def set_seed(seed: int | None) -> None:
    """Make it what it was in the run that is resumed."""
    if seed != context.global_seed():
        tf.random.set_seed(seed)


def learning_rate(model: keras.Model) -> float:
    """That of the next step."""
    return float(model.optimizer.learning_rate)


def telling_loss(model: keras.Model, loss: Callable[[Callable[[Any], bool]], BatchLoss]) -> Any:
    """The model's step, with the loss of the batch in its logs, and where it may be no update, whether it is one."""
    train_step, iterations = model.train_step, iterations_to_watch(model)

    def step(data: Any) -> Any:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

        def is_usable(value: Any) -> bool:
            return not tf.is_tensor(value) or isinstance(value, tf.__internal__.EagerTensor) or value.graph is graph

        before = None if iterations is None else tf.identity(iterations)
        with loss(is_usable).heard() as found:
            logs = train_step(data)
        if iterations is not None:
            found[DID_UPDATE] = tf.not_equal(before, tf.identity(iterations))
        return {**logs, **found} if isinstance(logs, dict) else logs

    return step


def with_logs(result: Any, heard: Callable[[Any], Any]) -> Any:
    """What the native function returns, with other logs."""
    return heard(result)


def show_state(model: keras.Model, result: Any) -> None:
    """The variables have it."""


def as_train_function(
    train: Train, step: Any, latest: Latest, model: keras.Model, data: Any
) -> tuple[Any, Callable[[Any], None]]:
    """What ``fit`` calls for each batch: `train` gets what calls the step on the batch.

    And what is called where data has run out, with what its batches are like: then ``fit`` asks for another one in a
    step, of which TensorFlow does all that needs no batch.
    """
    call, run_out = _step_on(step, model, data)

    def on_batch(batch: Any) -> Any:
        try:
            return call(batch)
        except BaseException as error:
            # What failed while it was traced has changed nothing.
            is_tracing = isinstance(error, Exception) and not isinstance(error, tf.errors.OpError)
            latest.is_updating = model.run_eagerly or not is_tracing
            raise

    return lambda iterator: train(on_batch), run_out


def _step_on(step: Any, model: keras.Model, data: Any) -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    if overrides(model, "make_train_function"):
        with patched(model, train_step=step):
            model.make_train_function(force=True)
        own = model.train_function  # nobody knows what else than an iterator it would take
        return lambda batch: own(iter(tf.data.Dataset.from_tensors(batch))), partial(_run_out, own, data)
    run = model.distribute_strategy.run
    if model.run_eagerly:
        return lambda batch: run(step, args=(_as_tensors(batch),)), lambda like: None

    def on_data(batch: Any) -> Any:
        return run(step, args=(batch,))

    compiled = tf.function(on_data, autograph=False, jit_compile=model.jit_compile)
    on_iterator = tf.function(lambda iterator: compiled(next(iterator)), autograph=False)
    return _Compiled(on_data, model, data), partial(_run_out, on_iterator, data)


def _run_out(on_iterator: Callable[[Any], Any], data: Any, like: Any) -> None:
    """Call it when the data has nothing more, if it is data that ``fit`` takes."""
    if not (isinstance(data, (tf.data.Dataset, GeneratorType)) or is_torch_dataloader(data)):
        return
    spec = data.element_spec if isinstance(data, tf.data.Dataset) else _element_spec(like)
    with suppress(tf.errors.OutOfRangeError):
        on_iterator(iter(tf.data.Dataset.from_generator(tuple, output_signature=spec)))


def _element_spec(like: Any) -> Any:
    """Of what ``fit`` makes of data whose batches are like this one."""
    zeros = map_leaves(lambda leaf: None if leaf is None else tf.zeros(leaf.shape, leaf.dtype), like)
    spec = tf.data.Dataset.from_tensors(zeros).element_spec  # which has something for None
    return tf.nest.map_structure(lambda leaf: _of_length(None, leaf) if isinstance(leaf, tf.TensorSpec) else leaf, spec)


class _Compiled:
    """The step as ``fit`` compiles it, traced for what ``fit`` would trace it for.

    A trace for batches of one length may differ in the last bit from one for batches of any.
    """

    def __init__(self, step: Callable[[Any], Any], model: keras.Model, data: Any) -> None:
        self._step = step
        self._model = model
        self._data = data
        self._traces: dict[Any, Callable[..., Any]] = {}

    def __call__(self, batch: Any) -> Any:
        arrays = [array for array in keras.tree.flatten(batch) if array is not None]
        tensors = [array if isinstance(array, tf.Tensor) else _as_tensor(array) for array in arrays]
        key = tuple([_kind(tensor) for tensor in tensors])
        trace = self._traces.get(key)
        if trace is None:
            trace = self._traces[key] = self._traced(batch, tensors)
        return trace(tensors)

    def _traced(self, batch: Any, tensors: list[Any]) -> Callable[..., Any]:
        def step(tensors: list[Any]) -> Any:
            remaining = iter(tensors)
            leaves = [None if leaf is None else next(remaining) for leaf in keras.tree.flatten(batch)]
            return self._step(keras.tree.pack_sequence_as(batch, leaves))

        compiled = tf.function(step, autograph=False, jit_compile=self._model.jit_compile)
        return compiled.get_concrete_function(self._specs(tensors))  # type: ignore[no-any-return]

    def _specs(self, tensors: list[Any]) -> list[Any]:
        if isinstance(self._data, tf.data.Dataset):
            specs = [spec for spec in keras.tree.flatten(self._data.element_spec) if spec is not None]
            if len(specs) == len(tensors) and all(map(_fits, specs, tensors)):
                return specs
        length = self._data.batch_size if getattr(self._data, "has_equal_batches", False) else None
        return [_of_length(length, tensor) for tensor in tensors]


def _as_tensors(batch: Any) -> Any:
    """As a step gets it from ``fit``, also where nothing compiles it."""
    return keras.tree.map_structure(_as_tensor, batch, none_is_leaf=False)


def _as_tensor(array: Any) -> Any:
    return array if hasattr(array, "_type_spec") else tf.convert_to_tensor(array)


def _kind(tensor: Any) -> Any:
    return (tensor.shape[1:], tensor.dtype) if isinstance(tensor, tf.Tensor) else tensor._type_spec


def _of_length(length: int | None, tensor: Any) -> Any:
    if not isinstance(tensor, (tf.Tensor, tf.TensorSpec)):
        return tensor._type_spec
    return tf.TensorSpec([length, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)


def _fits(spec: Any, tensor: Any) -> bool:
    return bool(spec.is_compatible_with(tensor))


def as_chunked_function(train: Train, step: Callable[[], Any], model: keras.Model) -> Any:
    """The same where `step` finds all values in the variables, and leaves the new ones there."""
    return lambda iterator: train(lambda _: step())
