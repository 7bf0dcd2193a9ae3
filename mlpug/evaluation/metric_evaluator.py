"""Computes metrics: of a batch that was trained on, of a batch, of a whole dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mlpug.adapter import StepOutput
from mlpug.chunks import ChunkableBatch, Chunking
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.evaluation.mean import WeightedMean
from mlpug.evaluation.metric import Metric, ToHost
from mlpug.evaluation.sliding_window import SlidingWindow, sliding_window
from mlpug.step_output import as_step_output
from mlpug.trees import map_leaves
from mlpug.validation import checked_function

if TYPE_CHECKING:
    from mlpug.trainers.default_trainer import DefaultTrainer

ModelEvaluateFunction = Callable[..., Any]


class MetricEvaluator:
    """Computes metrics of batches and datasets. ``"loss"`` is always one of them.

    Args:
        trainer: evaluates batches with this trainer's training model, in inference mode. Where the metrics are of
            batches that are trained on anyway, there need be none.
        model_evaluate_func: instead of a trainer, a function ``f(batch, evaluate_settings=..., inference_mode=True)``
            that returns what a training model returns.
        metrics: a `Metric` for each name. A metric called ``"loss"`` replaces the default, which is the mean of the
            loss weighted by ``num_samples``.
        batch_chunk_size: evaluate each batch in chunks of at most this many samples: the same metrics, less memory. By
            default the trainer's.
        chunkable_batch_wrapper: makes an object with `__len__` and slicing of a batch that can't be cut by the first
            axis of its arrays. By default the trainer's, with its chunk size.
        show_progress: show a progress bar while a dataset is evaluated.

    Raises:
        ConfigurationError: both `trainer` and `model_evaluate_func`, something that isn't a `Metric`,
            or a chunk size below 1.

    >>> evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: (float(batch.mean()), len(batch)))
    >>> evaluator.evaluate_dataset([np.array([1.0, 2.0, 3.0]), np.array([6.0])])
    {'loss': 3.0}
    """

    def __init__(
        self,
        trainer: DefaultTrainer | None = None,
        model_evaluate_func: ModelEvaluateFunction | None = None,
        metrics: Mapping[str, Metric] | None = None,
        batch_chunk_size: int | None = None,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        show_progress: bool = False,
    ) -> None:
        if trainer is not None and model_evaluate_func is not None:
            raise ConfigurationError(
                "MetricEvaluator evaluates a batch by trainer=... or by model_evaluate_func=..., and got both."
            )
        if trainer is not None and not hasattr(trainer, "adapter"):
            raise ConfigurationError(f"trainer must be an mlp.trainers.DefaultTrainer, not {trainer!r}.")
        checked_function("model_evaluate_func", model_evaluate_func)
        self.metrics: dict[str, Metric] = {"loss": _mean_loss(), **(metrics or {})}
        for name, metric in self.metrics.items():
            if not isinstance(metric, Metric):
                raise ConfigurationError(
                    f"metrics[{name!r}] must be an mlp.evaluation.Metric(inputs=..., compute=...), not {metric!r}."
                )
        self._trainer = trainer
        # Turns device arrays into numpy arrays.
        self.to_host: ToHost = _as_arrays if trainer is None else trainer.adapter.to_host
        self._model_evaluate_func = model_evaluate_func
        of_trainer = Chunking() if trainer is None else trainer.chunking
        self._chunking = Chunking(
            batch_chunk_size=of_trainer.batch_chunk_size if batch_chunk_size is None else batch_chunk_size,
            chunkable_batch_wrapper=chunkable_batch_wrapper or of_trainer.chunkable_batch_wrapper,
        )
        self._show_progress = show_progress

    def check_can_evaluate(self) -> None:
        """Raise `ConfigurationError` where there is nothing to evaluate a batch by."""
        if self._trainer is None and self._model_evaluate_func is None:
            raise ConfigurationError(
                "MetricEvaluator needs trainer=... or model_evaluate_func=... to evaluate a batch, and got neither. "
                "Without them it computes the metrics of batches that are trained on, and no others."
            )

    @property
    def looks_at_batches(self) -> bool:
        """Whether a metric may need more of a batch that is trained on than its loss: all but the default one may."""
        return any(metric.inputs is not _loss_inputs for metric in self.metrics.values())

    def evaluate_batch(self, batch: Any, evaluate_settings: Any = None) -> dict[str, Any]:
        """The metrics of one batch, as plain values."""
        picked = self.pick_from_batch(batch, evaluate_settings)
        return {name: self.value(name, inputs) for name, inputs in picked.items()}

    def evaluate_dataset(
        self, dataset: Iterable[Any], evaluate_settings: Any = None, name: str = "dataset"
    ) -> dict[str, Any]:
        """The metrics over all batches of the dataset together, as plain values.

        Args:
            dataset: batches; evaluated once, from the start.
            evaluate_settings: passed on to the training model.
            name: shown beside the progress bar, and in errors.

        Raises:
            DatasetError: the dataset has no batches.
        """
        collectors = {metric_name: metric.collector(self.to_host) for metric_name, metric in self.metrics.items()}
        batches = tqdm(dataset, desc=name, leave=False) if self._show_progress else dataset
        is_empty = True
        for batch in batches:
            is_empty = False
            for metric_name, inputs in self.pick_from_batch(batch, evaluate_settings).items():
                for picked in inputs:
                    collectors[metric_name].add(picked)
        if is_empty:
            raise DatasetError(
                f"There are no batches to evaluate in {name}. An iterator can be read only once: "
                "pass a DataLoader, a list, or another object that gives a fresh iterator each time."
            )
        return {metric_name: collector.value() for metric_name, collector in collectors.items()}

    def pick_from_batch(self, batch: Any, evaluate_settings: Any = None) -> dict[str, list[Any]]:
        """Evaluate the batch, and pick each metric's inputs, from each chunk; they stay on the device."""
        picked: dict[str, list[Any]] = {name: [] for name in self.metrics}
        for chunk in self._chunking.chunks_of(batch):
            output = self._evaluate(chunk, evaluate_settings)
            for name, metric in self.metrics.items():
                picked[name].append(metric.inputs(chunk, output))
        return picked

    def value(self, name: str, inputs: Iterable[Any]) -> Any:
        """The value of a metric over inputs that were picked."""
        return self.metrics[name].value(inputs, self.to_host)

    def sliding_window(self, name: str, length: int) -> SlidingWindow:
        """A window over the latest `length` batches of a metric."""
        return sliding_window(self.metrics[name], length, self.to_host)

    def __getstate__(self) -> dict[str, Any]:
        """Without what `read_by` was told by a run: a copy belongs to none."""
        return {**vars(self), "to_host": _as_arrays if self._trainer is None else self.to_host}

    def read_by(self, to_host: ToHost) -> None:
        """Where the evaluator has no trainer: read device arrays as the trainer does that gives them."""
        if self._trainer is None:
            self.to_host = lambda tree: _as_arrays(to_host(tree))  # a function may return others

    def _evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        if self._model_evaluate_func is not None:
            returned = self._model_evaluate_func(batch, evaluate_settings=evaluate_settings, inference_mode=True)
            return as_step_output(returned, batch)
        self.check_can_evaluate()
        assert self._trainer is not None
        self._trainer.check_ready()
        return self._trainer.adapter.evaluate(batch, evaluate_settings)


def _mean_loss() -> Metric:
    return Metric(inputs=_loss_inputs, compute=WeightedMean())


def _loss_inputs(_batch: Any, output: StepOutput) -> tuple[Any, Any]:
    return output.loss, output.num_samples


def _as_arrays(tree: Any) -> Any:
    return map_leaves(_as_array, tree)


def _as_array(leaf: Any) -> Any:
    if hasattr(leaf, "detach"):  # PyTorch's, which numpy can't read on a GPU, or with a gradient
        leaf = leaf.detach().cpu()
    return np.asarray(leaf) if hasattr(leaf, "__array__") else leaf
