"""A compiled `keras.Model` as the steps of mlpug see a training model: for chunks, and to evaluate a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import keras
from keras.src.backend.common.stateless_scope import in_stateless_scope

from mlpug_keras.model import Latest, begin_losses


class WeighedChunk(NamedTuple):
    """A chunk, and what each of the compiled losses is multiplied by on it."""

    chunk: Any
    factors: Any  # an array, of one axis


class CompiledModel:
    """What the steps call of it: the forward pass, the compiled loss and the metrics, as in Keras's ``train_step``.

    The variables of metrics are among those that aren't trained: a step changes them like any other.

    Attributes:
        latest: the batch that is trained on.
        has_chunks: always.
        keeps_states: whether the run may be resumed.
    """

    has_chunks = True

    def __init__(self, model: keras.Model, latest: Latest) -> None:
        self._model = model
        self.latest = latest
        self.keeps_states = False

    @property
    def jit_compile(self) -> bool:
        """As it was compiled."""
        return bool(self._model.jit_compile)

    @property
    def trainable_variables(self) -> list[Any]:
        """The model's."""
        return list(self._model.trainable_variables)

    @property
    def non_trainable_variables(self) -> list[Any]:
        """The model's, seeds among them, and those of its metrics."""
        return [*self._model.non_trainable_variables, *self._model.metrics_variables]

    def results(self, batch: Any, settings: Any, inference_mode: bool) -> tuple[Any, None, Any]:
        """(loss, None, logs), each value of the logs with an axis more; in inference mode (loss, None, predictions)."""
        if inference_mode and not in_stateless_scope():
            # A loss of the user's own may write to metrics.
            values = [
                (variable, variable.value) for variable in (*self.trainable_variables, *self.non_trainable_variables)
            ]
            with keras.StatelessScope(state_mapping=values):
                return self.results(batch, settings, inference_mode)
        batch, factors = batch if isinstance(batch, WeighedChunk) else (batch, None)
        begin_losses(self._model)
        model, is_training = self._model, not inference_mode
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        predictions = model(x, training=is_training) if model._call_has_training_arg else model(x)
        first = next(array for array in keras.tree.flatten(x) if array is not None)
        num_samples = keras.ops.shape(first)[0]
        with self._counting(num_samples), with_losses(model, partial(_times, factors)):
            loss = model._compute_loss(x=x, y=y, y_pred=predictions, sample_weight=sample_weight, training=is_training)
        if inference_mode:
            return loss, None, predictions
        model._loss_tracker.update_state(loss, sample_weight=num_samples)
        logs = model.compute_metrics(x, y, predictions, sample_weight)
        return loss, None, {name: keras.ops.expand_dims(value, 0) for name, value in flat(logs).items()}

    @contextmanager
    def _counting(self, num_samples: Any) -> Iterator[None]:
        """Let the loss of each output count by samples: Keras counts batches where it doesn't know their length."""
        with ExitStack() as stack:
            for metric in () if self._model._compile_loss is None else self._model._compile_loss.metrics:
                stack.enter_context(patched(metric, update_state=partial(_counted, metric.update_state, num_samples)))
            yield


def _counted(update_state: Any, num_samples: Any, value: Any, sample_weight: Any = None) -> Any:
    return update_state(value, sample_weight=num_samples)


def _times(factors: Any, number: int, loss: Any) -> Any:
    if factors is None:
        return loss

    def call(*arguments: Any) -> Any:
        value = loss(*arguments)
        return value * keras.ops.cast(factors[number], value.dtype)

    return call


def compiled_losses(model: keras.Model) -> list[Any]:
    """The `keras.losses.Loss` of each output that has one; the model is built."""
    compiled = model._compile_loss
    return [] if compiled is None else [each.loss for each in compiled._flat_losses or ()]


@contextmanager
def with_losses(model: keras.Model, replace: Callable[[int, Any], Any]) -> Iterator[None]:
    """Within, what ``replace(number, loss)`` gives is called in the place of each compiled loss."""
    compiled = model._compile_loss
    if compiled is None or compiled._flat_losses is None:
        yield
        return
    losses = [each._replace(loss=replace(number, each.loss)) for number, each in enumerate(compiled._flat_losses)]
    with patched(compiled, _flat_losses=losses):
        yield


def latest_of(logs: dict[str, Any]) -> dict[str, Any]:
    """What the last chunk gave, of the logs of all chunks one after the other."""
    return {name: values[-1] for name, values in logs.items()}


def overrides(model: keras.Model, *names: str) -> list[str]:
    """Those of the methods that the model has of its own, instead of Keras's."""
    return [
        name for name in names if name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name)
    ]


def own_train_function(model: keras.Model) -> Any:
    """The function that the user has put in the place of the one which the model makes; None where nobody has."""
    function = model.train_function
    is_the_models = function is None or is_made_by_keras(function) or overrides(model, "make_train_function")
    return None if is_the_models else function


def is_made_by_keras(function: Any) -> bool:
    """Say whether a train function is one that Keras makes, and nobody has wrapped it."""
    return str(getattr(function, "__module__", "")).startswith("keras.")


_TELL_METRICS = ("train_step", "test_step", "make_train_function", "make_test_function", "compute_metrics")


def metric_names(model: keras.Model) -> list[str] | None:
    """What ``fit`` will call the loss and the compiled metrics; None where that is known only when it has trained.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()])
    >>> metric_names(model)
    ['loss', 'mae', 'root_mean_squared_error']
    """
    compiled = model._compile_metrics
    given = [] if compiled is None else [compiled._user_metrics or [], compiled._user_weighted_metrics or []]
    is_simple = all(isinstance(part, (list, tuple)) for part in given) and len(getattr(model, "outputs", ())) == 1
    if not is_simple or overrides(model, *_TELL_METRICS, "get_metrics_result", "metrics"):
        return None
    own = [metric for metric in model.metrics if metric is not model._loss_tracker and metric is not compiled]
    names = ["loss", *map(_name_of, [*own, *(metric for part in given for metric in part)])]
    return names if None not in names and len(set(names)) == len(names) else None  # type: ignore[return-value]


def _name_of(metric: Any) -> str | None:
    """None where it isn't a metric of Keras's own: it may tell several values by names of its own."""
    if isinstance(metric, str):
        return metric
    is_kerass = type(metric).__module__.split(".")[0] == "keras"
    return str(metric.name) if isinstance(metric, keras.metrics.Metric) and is_kerass else None


def is_built(model: keras.Model) -> bool:
    """Whether all layers have their variables, and the compiled loss and metrics theirs."""
    parts = [part for part in (model._compile_metrics, model._compile_loss) if part is not None]
    return all(layer.built for layer in model._flatten_layers()) and all(part.built for part in parts)


def flat(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Without dicts in it, as Keras shows logs to callbacks."""
    result: dict[str, Any] = {}
    for name, value in logs.items():
        result |= flat(value) if isinstance(value, dict) else {name: value}
    return result


@contextmanager
def patched(target: Any, **attributes: Any) -> Iterator[None]:
    """Within, an object has these attributes of its own; Keras doesn't hear of it."""
    kept = {name: vars(target)[name] for name in attributes if name in vars(target)}
    for name, value in attributes.items():
        object.__setattr__(target, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in kept:
                object.__setattr__(target, name, kept[name])
            else:
                object.__delattr__(target, name)
