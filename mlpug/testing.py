"""A numpy training loop behind the same boundary as the real backends.

It is the smallest complete `Adapter`: what mlpug's own core is tested with, what a callback can be tested with in a
millisecond, and an example for whoever adds a backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlpug.adapter import Clipping, DataOptions, Holder, Process, Run, StepOutput
from mlpug.chunks import Group
from mlpug.errors import ConfigurationError
from mlpug.joining import joined_batches
from mlpug.model_checkpoint import check_fits, check_names
from mlpug.optimizer_settings import CHECKPOINT, CONFIGURED, Settings, warn_of_other_settings
from mlpug.step_output import as_step_output, check_losses, joined_outputs
from mlpug.trainers.default_trainer import DefaultTrainer, named
from mlpug.trees import map_leaves
from mlpug.validation import check_training_call

Parameters = dict[str, np.ndarray]
_NOTHING: Mapping[str, Any] = {}


class LinearRegression:
    """A numpy training model: ``y = x @ weight + bias`` with the mean squared error, and its gradients.

    Any training model for `FakeAdapter` is like this one: called with ``inference_mode=False`` it leaves the gradient
    of the loss in `gradients`, by the name of the parameter.

    Args:
        num_features: the length of x for one sample; a batch is ``(x, y)`` of shapes [n, num_features] and [n].

    >>> model = LinearRegression(num_features=2)
    >>> loss, num_samples, predictions = model((np.ones((3, 2)), np.ones(3)), None, inference_mode=False)
    >>> loss, num_samples, model.gradients["weight"].tolist()
    (1.0, 3, [-2.0, -2.0])
    """

    def __init__(self, num_features: int) -> None:
        self.parameters: Parameters = {"weight": np.zeros(num_features), "bias": np.zeros(())}
        self.gradients: Parameters = {}

    def __call__(self, batch_data: Any, evaluate_settings: Any, inference_mode: bool = False) -> tuple[float, int, Any]:
        """Return (loss, num_samples, predictions)."""
        x, y = batch_data
        predictions = x @ self.parameters["weight"] + self.parameters["bias"]
        errors = predictions - y
        if not inference_mode:
            self.gradients = {"weight": 2 * (x.T @ errors) / len(y), "bias": 2 * np.mean(errors)}
        return float(np.mean(errors**2)), len(y), predictions


class GradientDescent:
    """Plain gradient descent on numpy arrays, in place.

    >>> parameters = {"weight": np.array([1.0])}
    >>> GradientDescent(parameters, learning_rate=0.5).step({"weight": np.array([1.0])})
    >>> parameters["weight"]
    array([0.5])
    """

    def __init__(self, parameters: Parameters, learning_rate: float = 0.01) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate

    def step(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Move each parameter against its gradient."""
        for name, parameter in self.parameters.items():
            parameter -= self.learning_rate * gradients[name]


class FakeNativeCallback:
    """What a callback of the host trainer is to `FakeAdapter`: a function that gets the name of each event.

    >>> heard = []
    >>> FakeNativeCallback(heard.append).hear("epoch_started")
    >>> heard
    ['epoch_started']
    """

    def __init__(self, hear: Callable[[str], None]) -> None:
        self.hear = hear


class FakeAdapter:
    """Real gradient descent on a numpy model, in a loop of a dozen lines.

    >>> adapter = FakeAdapter({"optimizer": GradientDescent({"weight": np.zeros(1)}, learning_rate=0.1)})
    >>> adapter.learning_rates()
    {'optimizer': 0.1}
    """

    backend = "fake"

    def __init__(
        self, optimizers: Mapping[str, GradientDescent], model_components: Mapping[str, Any] = _NOTHING
    ) -> None:
        for name, optimizer in optimizers.items():
            if not optimizer.parameters:
                raise ConfigurationError(f"The optimizer {name!r} has no parameters: give it those of the model.")
        self._optimizers = dict(optimizers)
        self._model_components = dict(model_components)
        self._training_model: Any = None
        self._stop = False
        self._configured = self._settings()  # when training started
        self._is_resumed = False

    @property
    def process(self) -> Process:
        """There is only one."""
        return Process(rank=0, world_size=1)

    def set_training_model(self, training_model: Any) -> None:
        """Take any callable."""
        if not callable(training_model):
            raise ConfigurationError(f"The training model must be callable, not a {type(training_model).__name__}.")
        check_training_call(training_model, f"{type(training_model).__name__}.__call__")
        self._training_model = training_model

    def as_dataset(self, given: Any, options: DataOptions) -> Any:
        """Anything that can be iterated."""
        return given

    def fit(self, run: Run) -> None:
        """Train."""
        self._stop = False
        if not self._is_resumed:
            self._configured = self._settings()
        self._is_resumed = False
        _tell(run, "training_started", run.num_batches_per_epoch)
        for epoch in range(run.first_epoch, run.num_epochs):
            if self._stop:
                break
            first_batch = run.first_batch if epoch == run.first_epoch else 0
            if not first_batch:
                _tell(run, "epoch_started")
            is_completed = self._train_one_epoch(run, first_batch)
            for listener in run.listeners:
                if isinstance(listener, FakeNativeCallback):
                    if is_completed:  # its end is told where a resumed run gets to it
                        listener.hear("epoch_ended")
                else:
                    listener.epoch_ended(is_completed)
        for listener in run.listeners:
            if not isinstance(listener, FakeNativeCallback):
                listener.training_ended()

    def _train_one_epoch(self, run: Run, batches_done: int) -> bool:
        if self._stop:
            return False
        for given in run.dataset:
            if given is None:
                batches_done += 1
                _tell(run, "batch_left_out")
                continue
            batch = joined_batches(given, np.concatenate) if isinstance(given, Group) else given
            chunks = [batch] if run.chunks_of is None else run.chunks_of(given)
            _tell(run, "batch_started", batch)
            _tell(run, "batch_ended", batch, *self._step(chunks, run))
            batches_done += 1
            if self._stop:
                return batches_done == run.num_batches_per_epoch
        return True

    def _step(self, chunks: list[Any], run: Run) -> tuple[StepOutput, bool]:
        model = self._training_model
        outputs: list[StepOutput] = []
        sums: Parameters = {}
        settings = run.evaluate_settings()
        for chunk in chunks:
            returned = model(chunk, evaluate_settings=settings, inference_mode=False)
            output = as_step_output(returned, chunk)
            check_losses(output.loss, self._optimizers)
            outputs.append(output)
            if output.num_samples or run.chunks_of is None:
                weight = 1 if run.chunks_of is None else output.num_samples
                sums = {name: sums.get(name, 0) + weight * value for name, value in model.gradients.items()}
        output = joined_outputs(outputs, np.concatenate, _weighted_mean)
        if not sums:  # nothing in the batch counts
            return output, False
        total = 1 if run.chunks_of is None else output.num_samples
        gradients = {name: value / total for name, value in sums.items()}
        losses = output.loss.values() if isinstance(output.loss, Mapping) else [output.loss]
        looked_at = (*losses, *gradients.values()) if run.on_non_finite is not None else ()
        if not all(np.isfinite(value).all() for value in looked_at):
            assert run.on_non_finite is not None
            run.on_non_finite(output)
            return output, False
        norms = {}
        for name, optimizer in self._optimizers.items():
            own = {parameter: gradients[parameter] for parameter in optimizer.parameters}
            clipped, norms[name] = _clipped(own, run.clipping)
            optimizer.step(clipped)
        norm = None if run.clipping is None else norms if len(norms) > 1 else next(iter(norms.values()))
        return replace(output, gradient_norm=norm), True

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
        self._stop = True

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """Call the training model in inference mode."""
        returned = self._training_model(batch, evaluate_settings=evaluate_settings, inference_mode=True)
        return as_step_output(returned, batch)

    def to_host(self, tree: Any) -> Any:
        """Everything is on the host already; numpy's scalars become numbers."""
        return map_leaves(lambda leaf: leaf.item() if getattr(leaf, "shape", None) == () else leaf, tree)

    def gather(self, tree: Any) -> list[Any]:
        """There is only one process."""
        return [tree]

    def model_state(self) -> dict[str, Any]:
        """The parameters of each component."""
        return {name: dict(component.parameters) for name, component in self._model_components.items()}

    def state(self) -> dict[str, Any]:
        """Parameters, also those of no component, and learning rates."""
        optimizers = {
            name: {
                "learning_rate": optimizer.learning_rate,
                "parameters": dict(optimizer.parameters),
                CONFIGURED: self._configured[name],
            }
            for name, optimizer in self._optimizers.items()
        }
        return {"model": self.model_state(), "optimizers": optimizers}

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """Take them back, in place, when all of them fit."""
        self._configured, self._is_resumed = self._settings(), True
        check_names("model components", self._model_components, state["model"])
        check_names("optimizers", self._optimizers, state["optimizers"])
        groups = [(name, part.parameters, state["model"][name]) for name, part in self._model_components.items()]
        for name, optimizer in self._optimizers.items():
            groups.append((name, optimizer.parameters, state["optimizers"][name]["parameters"]))
        for name, parameters, saved in groups:
            check_fits(name, parameters, saved, same_dtypes=True)
        for _, parameters, saved in groups:
            for key, parameter in parameters.items():
                parameter[...] = saved[key]
        if optimizer_settings == CHECKPOINT:
            for name, optimizer in self._optimizers.items():
                optimizer.learning_rate = state["optimizers"][name]["learning_rate"]
        warn_of_other_settings(state["optimizers"], self._configured, self._settings(), optimizer_settings)

    def _settings(self) -> dict[str, Settings]:
        return {name: {"learning_rate": optimizer.learning_rate} for name, optimizer in self._optimizers.items()}

    def holders(self) -> list[Holder]:
        """The training model and the components."""
        models = [self._training_model, *self._model_components.values()]
        kept = {"parameters", "gradients"}
        return [Holder(type(model).__name__, model, "its parameters", kept=kept) for model in models]

    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each optimizer."""
        return {name: optimizer.learning_rate for name, optimizer in self._optimizers.items()}

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """Set it."""
        self._optimizers[optimizer_name].learning_rate = value

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a `FakeNativeCallback`."""
        return isinstance(candidate, FakeNativeCallback)

    def native_metrics(self, callbacks: Sequence[Any]) -> list[str]:
        """Such callbacks get no metrics but mlpug's."""
        return []


def fake_trainer(optimizers: Any, model_components: Any = None, **options: Any) -> DefaultTrainer:
    """A `DefaultTrainer` on a `FakeAdapter`, as ``mlp.trainers.DefaultTrainer`` is one on a real backend.

    >>> model = LinearRegression(num_features=1)
    >>> fake_trainer(GradientDescent(model.parameters), model).model_components == {"model": model}
    True
    """
    components = {} if model_components is None else named(model_components, "model_components", "model")
    adapter = FakeAdapter(named(optimizers, "optimizers", "optimizer"), components)
    return DefaultTrainer(adapter, optimizers, model_components, **options)


def _clipped(gradients: Parameters, clipping: Clipping | None) -> tuple[Parameters, float | None]:
    if clipping is None:
        return gradients, None
    norm = float(np.sqrt(sum(np.sum(np.square(value)) for value in gradients.values())))
    if clipping.norm is not None:
        scale = min(1.0, clipping.norm / norm) if norm else 1.0
        return {name: value * scale for name, value in gradients.items()}, norm
    assert clipping.value is not None
    return {name: np.clip(value, -clipping.value, clipping.value) for name, value in gradients.items()}, norm


def _weighted_mean(values: list[Any], weights: list[Any]) -> Any:
    counted = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    return sum(value * weight for value, weight in counted) / sum(weights) if counted else math.nan


def _tell(run: Run, event: str, *arguments: Any) -> None:
    for listener in run.listeners:
        if isinstance(listener, FakeNativeCallback):
            listener.hear(event)
        else:
            getattr(listener, event)(*arguments)
