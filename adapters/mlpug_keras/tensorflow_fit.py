"""What is TensorFlow's own about a model that is trained by its own ``fit``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.data_adapters import is_torch_dataloader
from tensorflow.python.eager import context

from mlpug_keras.batch_loss import DID_UPDATE, BatchLoss, as_shares, iterations_to_watch
from mlpug_keras.compiled_model import overrides, patched
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.model import Latest
from mlpug_keras.tensorflow_parts import OwnDraws

# Gets what does the step on a batch and returns its logs, and returns the logs for fit.
Train = Callable[[Callable[[Any], Any]], Any]
# What ``fit`` takes for the end of the data where its train function raises it.
END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)


# What ``fit`` and ``evaluate`` show their `EpochIterator` to, when it is made.
BUILD = "_maybe_symbolic_build"


def needs_batch(model: keras.Model) -> bool:
    """Whether ``fit`` takes a batch to build the model with, before anything else."""
    return model._distribute_strategy is not None


def shown(batch: Any) -> Any:
    """A batch of ``fit`` as callbacks see it: Keras's data has a None as what TensorFlow calls an Optional."""
    if not any(isinstance(leaf, tf.experimental.Optional) for leaf in tf.nest.flatten(batch)):
        return batch  # of each batch: nothing is built anew where there is nothing to replace
    return keras.tree.map_structure(lambda leaf: None if isinstance(leaf, tf.experimental.Optional) else leaf, batch)


def described(leaf: Any) -> str | None:
    """What an array of a batch is like, by which a resumed run builds the model: ``float32 32 8``."""
    if leaf is None:
        return None
    spec = tf.type_spec_from_value(leaf if hasattr(leaf, "_type_spec") else tf.convert_to_tensor(leaf))
    kind = {tf.RaggedTensorSpec: f"ragged{getattr(spec, 'ragged_rank', 0)}", tf.SparseTensorSpec: "sparse"}
    words = [spec.dtype.name, *("?" if length is None else str(length) for length in spec.shape)]
    return " ".join([kind[type(spec)], *words] if type(spec) in kind else words)


def as_described(words: str | None) -> Any:
    """What TensorFlow takes for a tensor that is like that."""
    if words is None:
        return None
    kind, *rest = words.split(" ")
    is_plain = not kind.startswith(("ragged", "sparse"))
    dtype, *lengths = [kind, *rest] if is_plain else rest
    shape = [None if length == "?" else int(length) for length in lengths]
    if is_plain:
        return tf.TensorSpec(shape, dtype)
    return (
        tf.SparseTensorSpec(shape, dtype)
        if kind == "sparse"
        else tf.RaggedTensorSpec(shape, dtype, ragged_rank=int(kind.removeprefix("ragged")))
    )


def rebuild(model: keras.Model, batch: Any) -> None:
    """Create all variables, before a run is resumed: those that a step creates, by tracing it."""
    if model.run_eagerly:
        model._symbolic_build(data_batch=batch)
        return
    tf.function(model.train_step, autograph=False).get_concrete_function(batch)


def sync(model: keras.Model) -> None:
    """The variables have the latest values."""


def tested(model: keras.Model, batch: Any) -> Any:
    """What the model's own ``test_step`` tells of the batch."""
    return model.test_function(iter([_as_tensors(batch)]))


def counting(get_iterator: Callable[[], Any], on_made: Callable[[], None]) -> Callable[[], Any]:
    """The same, telling of each iterator, which Keras makes at once of what it gets."""

    def dataset() -> Any:
        on_made()
        return get_iterator()

    return dataset


def iterators_of_epoch(length: int | None) -> int:
    """How many iterators ``fit`` makes of a `tf.data.Dataset` for an epoch."""
    return 1 if length is None else 2  # the second is made where it ends, and not used


def reads_to_end(data: Any) -> bool:
    """Whether ``fit`` asks data for its end in the background: TensorFlow reads ahead, which a DataLoader notices."""
    return bool(is_torch_dataloader(data))


def reads_in_background(data: Any) -> bool:
    """Whether a thread of TensorFlow calls the data's own Python code, some batches ahead of the step."""
    return not isinstance(data, tf.data.Dataset)


def tf_dataset(epoch_iterator: Any) -> Any:
    """The `tf.data.Dataset` that Keras's `EpochIterator` iterates."""
    return epoch_iterator._distributed_dataset


def set_tf_dataset(epoch_iterator: Any, dataset: Any) -> None:
    """Have it iterate another."""
    epoch_iterator._distributed_dataset = dataset


class OrderOfArrays:
    """How ``fit`` shuffles arrays on TensorFlow.

    It draws from TensorFlow's seed, the same order in each epoch. Where nobody has set that, it would draw from what
    nobody can know: then the order comes from a seed that is kept, and the number of the iterator.

    Args:
        seed: of the user's, for an order that depends on nothing else.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = secrets.randbits(62) if seed is None else seed
        self._is_used: bool | None = None if seed is None else True  # None: where nobody has set TensorFlow's seed
        self._number = tf.Variable(0, trainable=False, dtype=tf.int64)

    def get_state(self) -> dict[str, Any]:
        """The seed, and whether it is used."""
        return {"seed": self._seed, "is_used": self._is_used}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Shuffle as the run that is resumed."""
        self._seed, self._is_used = state["seed"], state["is_used"]

    def begin(self, number: int) -> None:
        """An iterator begins, of this number."""
        self._number.assign(number)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within, ``fit`` makes what shuffles."""
        if self._is_used is None:
            self._is_used = context.global_seed() is None
        if not self._is_used:
            yield
            return

        def shuffle(indices: Any) -> Any:
            seed = tf.stack([tf.constant(self._seed, tf.int64), self._number])
            seed = tf.random.experimental.stateless_fold_in(seed, indices[0])
            return tf.random.experimental.stateless_shuffle(indices, seed)

        with patched(tf.random, shuffle=shuffle):
            yield


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
    rate = model.optimizer.learning_rate
    return float(rate if isinstance(rate, float) else tf.convert_to_tensor(rate))  # which several devices may share


def telling_loss(
    model: keras.Model, loss: Callable[[Callable[[Any], bool]], BatchLoss], keeps_states: Callable[[], bool]
) -> Any:
    """The model's step, with the loss of the batch in its logs, and where it may be no update, whether it is one.

    Args:
        model: whose step.
        loss: what hears of the loss.
        keeps_states: says whether a run may be resumed: then it is told what of the step couldn't go on.
    """
    train_step, iterations = model.train_step, iterations_to_watch(model)
    own_draws = OwnDraws()

    def step(data: Any) -> Any:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

        def is_usable(value: Any) -> bool:
            return not tf.is_tensor(value) or isinstance(value, tf.__internal__.EagerTensor) or value.graph is graph

        before = None if iterations is None else tf.identity(iterations)
        looking = own_draws.looked_for() if keeps_states() else nullcontext()
        with loss(is_usable).heard() as found, looking:
            logs = train_step(data)
        if iterations is not None:
            found[DID_UPDATE] = tf.not_equal(before, tf.identity(iterations))
        num_replicas = model.distribute_strategy.num_replicas_in_sync
        if num_replicas > 1:
            found = as_shares(found, num_replicas)
        return {**logs, **found} if isinstance(logs, dict) else logs

    return step


def with_logs(result: Any, heard: Callable[[Any], Any]) -> Any:
    """What the native function returns, with other logs."""
    return heard(result)


def show_state(model: keras.Model, result: Any) -> None:
    """The variables have it."""


def nothing_runs_out() -> None:
    """A step that finds no batch changes nothing."""


def as_train_function(
    train: Train, step: Any, latest: Latest, model: keras.Model, feed: FitFeed
) -> tuple[Any, Callable[[], None]]:
    """What ``fit`` calls for each batch: `train` gets what calls the step on the batch.

    And what does what a step does that finds no batch: TensorFlow does all of it that needs none.
    """
    call, run_out = _step_on(step, model, feed)

    def on_batch(batch: Any) -> Any:
        try:
            return call(batch)
        except BaseException as error:
            # What failed while it was traced has changed nothing.
            is_tracing = isinstance(error, Exception) and not isinstance(error, tf.errors.OpError)
            latest.is_updating = model.run_eagerly or not is_tracing
            raise

    return lambda iterator: train(on_batch), run_out


def _step_on(step: Any, model: keras.Model, feed: FitFeed) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    if overrides(model, "make_train_function"):
        with patched(model, train_step=step):
            model.make_train_function(force=True)
        own = model.train_function  # nobody knows what else than an iterator it would take
        return lambda batch: own(iter(tf.data.Dataset.from_tensors(batch))), partial(_run_out, own, feed)
    run = model.distribute_strategy.run
    if model.run_eagerly:
        return lambda batch: run(step, args=(_as_tensors(batch),)), nothing_runs_out

    def on_data(batch: Any) -> Any:
        return run(step, args=(shown(batch),))

    compiled = tf.function(on_data, autograph=False, jit_compile=model.jit_compile)
    on_iterator = tf.function(lambda iterator: compiled(next(iterator)), autograph=False)
    return _Compiled(on_data, model, feed), partial(_run_out, on_iterator, feed)


def _run_out(on_iterator: Callable[[Any], Any], feed: FitFeed) -> None:
    """Call it on the iterator that has nothing more."""
    iterator = getattr(feed.pulls, "iterator", None)
    if isinstance(iterator, tf.data.Iterator):
        with suppress(tf.errors.OutOfRangeError, StopIteration):
            on_iterator(iterator)


class _Compiled:
    """The step as ``fit`` compiles it, traced for what ``fit`` would trace it for.

    A trace for batches of one length may differ in the last bit from one for batches of any. ``fit`` traces for what
    its iterator says of its batches.
    """

    def __init__(self, step: Callable[[Any], Any], model: keras.Model, feed: FitFeed) -> None:
        self._step = step
        self._model = model
        self._feed = feed
        self._traces: dict[Any, Callable[..., Any]] = {}
        self._iterator: Any = None
        self._trace: Callable[..., Any] | None = None  # for the batches of that iterator

    def __call__(self, batch: Any) -> Any:
        iterator = getattr(self._feed.pulls, "iterator", None)
        if not isinstance(iterator, tf.data.Iterator):
            return self._on_any(batch)
        if iterator is not self._iterator:
            self._iterator, self._trace = iterator, self._trace_for(iterator.element_spec)
        assert self._trace is not None
        return self._trace(tf.nest.flatten(self._feed.given, expand_composites=True))

    def _on_any(self, batch: Any) -> Any:
        """On a batch that doesn't come from TensorFlow's data: of any length, as ``fit`` would take a generator."""
        tensors = _as_tensors(batch)
        spec = tf.nest.map_structure(_of_any_length, tensors)
        return self._trace_for(spec)(tf.nest.flatten(tensors, expand_composites=True))

    def _trace_for(self, spec: Any) -> Callable[..., Any]:
        leaves = tf.nest.flatten(spec, expand_composites=True)
        key = (tuple(leaves), str(tf.nest.map_structure(lambda leaf: type(leaf).__name__, spec)))
        if key not in self._traces:

            def step(tensors: list[Any]) -> Any:
                return self._step(tf.nest.pack_sequence_as(spec, tensors, expand_composites=True))

            compiled = tf.function(step, autograph=False, jit_compile=self._model.jit_compile)
            self._traces[key] = compiled.get_concrete_function(leaves)
        return self._traces[key]


def _of_any_length(tensor: Any) -> Any:
    if not isinstance(tensor, tf.Tensor):
        return tf.type_spec_from_value(tensor)
    return tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)


def _as_tensors(batch: Any) -> Any:
    """As a step gets it from ``fit``, also where nothing compiles it."""
    return keras.tree.map_structure(_as_tensor, batch, none_is_leaf=False)


def _as_tensor(array: Any) -> Any:
    return array if hasattr(array, "_type_spec") else tf.convert_to_tensor(array)


def as_chunked_function(train: Train, step: Callable[[], Any], model: keras.Model) -> Any:
    """The same where `step` finds all values in the variables, and leaves the new ones there."""
    return lambda iterator: train(lambda _: step())
