"""What is trained: the optimizers, the model's components, the training model, and the adapter that trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlpug.adapter import Adapter, Clipping, Process
from mlpug.chunks import ChunkableBatch, Chunking
from mlpug.errors import ConfigurationError

_ON_NON_FINITE = ("raise", "skip", "ignore")


class DefaultTrainer:
    """Describes what is trained. Each backend's ``DefaultTrainer`` is this one with its own adapter.

    Args:
        adapter: the backend.
        optimizers: one optimizer, or several by name; one is called ``"optimizer"``. None, with `logs_itself`: the
            host makes its own when training starts.
        model_components: one model, or several by name; one is called ``"model"``. These are what checkpoints hold and
            what is used after training.
        on_non_finite: what becomes of a batch whose loss, or a gradient of it, is NaN or infinite. ``"raise"``:
            training ends with `NonFiniteLoss`. ``"skip"``: the batch changes nothing but the random numbers, and is
            counted in the logs, ``training_params.skipped_batches``. Both look before the weights change, which makes
            the host wait for the device at each batch. ``"ignore"``: nobody looks.
        batch_chunk_size: each batch of the dataset is computed in chunks of at most so many samples, one after the
            other: the same update, with the memory of one chunk.
        gradient_accumulation_steps: so many batches of the dataset make one batch. The last one of an epoch has those
            that are left.
        chunkable_batch_wrapper: with a batch_chunk_size, makes an object with ``__len__`` and slicing of a batch that
            can't be cut by the first axis of its arrays.
        gradient_clip_norm: the gradient of a batch is scaled down to this L2 norm, over all weights of an optimizer,
            where it is larger. Its norm before that is in the logs, ``training.batch.gradient_norm``; with `math.inf`
            it is only measured.
        gradient_clip_value: each number of the gradient is moved into [-gradient_clip_value, gradient_clip_value].
        logs_itself: beginnings of metric paths, such as ``"training.epoch"``, under which the host writes metrics whose
            names nobody knows before training.
        no_checkpoints: why no checkpoint of its runs can be made, and what works in its place, in a sentence or two.

    Attributes:
        chunking: how a batch is cut.
        clipping: what is done to its gradient; None: nothing.

    Raises:
        ConfigurationError: there is no optimizer, a name isn't a string, on_non_finite is something else, a size or a
            number of steps is below 1, or gradients are to be clipped to nothing, or in both ways.

    >>> from mlpug.testing import FakeAdapter, GradientDescent, LinearRegression
    >>> model = LinearRegression(num_features=2)
    >>> optimizer = GradientDescent(model.parameters)
    >>> trainer = DefaultTrainer(FakeAdapter({"optimizer": optimizer}), optimizer, model)
    >>> trainer.set_training_model(model)
    >>> list(trainer.optimizers), list(trainer.model_components)
    (['optimizer'], ['model'])
    """

    def __init__(
        self,
        adapter: Adapter,
        optimizers: Any,
        model_components: Any = None,
        on_non_finite: str = "ignore",
        batch_chunk_size: int | None = None,
        gradient_accumulation_steps: int = 1,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        gradient_clip_norm: float | None = None,
        gradient_clip_value: float | None = None,
        logs_itself: Sequence[str] = (),
        no_checkpoints: str | None = None,
    ) -> None:
        if on_non_finite not in _ON_NON_FINITE:
            expected = ", ".join(f'"{choice}"' for choice in _ON_NON_FINITE)
            raise ConfigurationError(f"on_non_finite must be one of {expected}, not {on_non_finite!r}.")
        self.adapter = adapter
        makes_its_own = optimizers is None and logs_itself
        self.optimizers = {} if makes_its_own else named(optimizers, "optimizers", "optimizer")
        self.model_components = {} if model_components is None else named(model_components, "model_components", "model")
        self.on_non_finite = on_non_finite
        self.chunking = Chunking(batch_chunk_size, gradient_accumulation_steps, chunkable_batch_wrapper)
        self.clipping = _clipping(gradient_clip_norm, gradient_clip_value)
        self.logs_itself = tuple(logs_itself)
        self.no_checkpoints = no_checkpoints
        self.training_model: Any = None

    @property
    def process(self) -> Process:
        """This process's rank, and the number of processes."""
        return self.adapter.process

    def set_training_model(self, training_model: Any) -> None:
        """Set what computes the loss of a batch.

        Args:
            training_model: called as ``training_model(batch_data, evaluate_settings=..., inference_mode=...)``. It
                returns the loss, or ``(loss, num_samples, auxiliary_results...)``, or a dict with those keys. The loss
                is a scalar, the mean over the batch's samples.

        Raises:
            ConfigurationError: the backend can't train this.
        """
        self.adapter.set_training_model(training_model)
        self.training_model = training_model

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every optimizer, from the next step on.

        Raises:
            ConfigurationError: not a finite number of at least 0, or an optimizer that has a schedule of its own.

        >>> from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
        >>> trainer = fake_trainer(GradientDescent(LinearRegression(2).parameters))
        >>> trainer.set_learning_rate(0.5)
        >>> trainer.adapter.learning_rates()
        {'optimizer': 0.5}
        """
        for name in self.adapter.learning_rates():
            self.set_learning_rate_for(name, learning_rate)

    def set_learning_rate_for(self, optimizer_name: str, learning_rate: float) -> None:
        """Set the learning rate of one optimizer; see `set_learning_rate`.

        Where torch's optimizer has several parameter groups it is that of the first, and the others keep their ratios.
        """
        known = self.adapter.learning_rates()
        if optimizer_name not in known:
            raise ConfigurationError(
                f"There is no optimizer {optimizer_name!r}; the optimizers are {', '.join(known)}."
            )
        if not _is_number(learning_rate) or not 0 <= learning_rate < math.inf:
            raise ConfigurationError(f"The learning rate must be a finite number of at least 0, not {learning_rate!r}.")
        self.adapter.set_learning_rate(optimizer_name, float(learning_rate))

    def check_can_save(self, who: str) -> None:
        """Raise `ConfigurationError` where no checkpoint of its runs can be made.

        Args:
            who: wants one.

        >>> from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
        >>> fake_trainer(GradientDescent(LinearRegression(2).parameters)).check_can_save("CheckpointManager")
        """
        if self.no_checkpoints is not None:
            raise ConfigurationError(f"{who} can't make or load a checkpoint of this run: {self.no_checkpoints}")

    def check_ready(self) -> None:
        """Raise `ConfigurationError` where no training model is set yet."""
        if self.training_model is None:
            raise ConfigurationError(
                "There is no training model: call trainer.set_training_model(train_model) before training "
                "or evaluating."
            )


def named(given: Any, argument: str, default_name: str) -> dict[str, Any]:
    """One object under the default name, or a dict of objects as it is.

    >>> named("Adam", "optimizers", "optimizer")
    {'optimizer': 'Adam'}
    """
    by_name = dict(given) if isinstance(given, Mapping) else {default_name: given}
    if not by_name or None in by_name.values():
        raise ConfigurationError(f"{argument} must be an object or a dict of objects by name, not {given!r}.")
    for name in by_name:
        if not isinstance(name, str):
            raise ConfigurationError(f"The names in {argument} must be strings, not {name!r}.")
    return by_name


def _clipping(norm: float | None, value: float | None) -> Clipping | None:
    for name, limit in (("gradient_clip_norm", norm), ("gradient_clip_value", value)):
        if limit is not None and not (_is_number(limit) and limit > 0):
            raise ConfigurationError(f"{name} must be a number above 0, or None for no clipping, not {limit!r}.")
    if norm is not None and value is not None:
        raise ConfigurationError("Gradients are clipped by gradient_clip_norm or by gradient_clip_value: give one.")
    return None if norm is None and value is None else Clipping(norm, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
