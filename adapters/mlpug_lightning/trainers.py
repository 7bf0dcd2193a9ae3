"""``mlpug.pytorch.trainers``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

import mlpug.trainers.default_trainer
from mlpug.chunks import ChunkableBatch, Chunking
from mlpug.errors import ConfigurationError
from mlpug.precision import chosen_precision
from mlpug.suggestions import did_you_mean
from mlpug.trainers import TrainingManager
from mlpug.trainers.default_trainer import named
from mlpug_lightning.adapter import LightningAdapter, Native
from mlpug_lightning.from_lightning import ported_adapter
from mlpug_lightning.host import check_is_ours, pl, quiet
from mlpug_lightning.ported import LOGS
from mlpug_lightning.sharding import no_checkpoints

__all__ = ["DefaultTrainer", "TrainingManager"]

_DEFAULTS = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
_OURS = {
    "callbacks": "pass them to TrainingManager(callbacks=...)",
    "max_epochs": "pass TrainingManager(num_epochs=...)",
    "min_epochs": "pass TrainingManager(num_epochs=...)",
    "max_steps": "pass TrainingManager(num_epochs=..., num_batches_per_epoch=...)",
    "min_steps": "pass TrainingManager(num_epochs=..., num_batches_per_epoch=...)",
    "limit_train_batches": "pass TrainingManager(num_batches_per_epoch=...)",
    "accumulate_grad_batches": "pass gradient_accumulation_steps=...",
    "gradient_clip_val": "pass gradient_clip_norm=... or gradient_clip_value=...",
    "gradient_clip_algorithm": "pass gradient_clip_norm=... or gradient_clip_value=...",
    "num_epochs": "it belongs to the TrainingManager",
    "num_batches_per_epoch": "it belongs to the TrainingManager",
    "seed": "it belongs to the TrainingManager",
    "experiment_data": "it belongs to the TrainingManager",
    "train_dataloaders": "pass the data to TrainingManager(trainer, train_dataloaders)",
    "train_dataloader": "pass the data to TrainingManager(trainer, train_dataloader)",
    "training_dataset": "pass the data to TrainingManager(trainer, training_dataset)",
    "ckpt_path": "pass resume_from=... to manager.start_training",
    "resume_from_checkpoint": "pass resume_from=... to manager.start_training",
    "val_dataloaders": "put mlp.callbacks.TestMetricsLogger(val_dataloaders, 'validation', ...) into the callbacks",
    "datamodule": "pass TrainingManager(trainer, datamodule.train_dataloader())",
}
_OURS_WHEN_PORTED = {
    **{name: cure for name, cure in _OURS.items() if not name.startswith(("gradient_clip", "accumulate_grad_batches"))},
    "datamodule": "pass TrainingManager(trainer, datamodule)",
    "optimizers": "the module's configure_optimizers makes them",
    "model_components": "the module is the one component, by the name 'model'",
    "gradient_clip_norm": "pass Lightning's own gradient_clip_val=...",
    "gradient_clip_value": "pass Lightning's own gradient_clip_val=..., with gradient_clip_algorithm='value'",
    "on_non_finite": "the module is trained by its own step. Pass Lightning's own detect_anomaly=True to look for NaN",
    "eager_mode": "compile what training_step calls, as in module.net.compile()",
    "compile_kwargs": "compile what training_step calls, as in module.net.compile()",
    "use_mixed_precision": "pass precision='16-mixed' or precision='bf16-mixed'",
}
_PORTED_DEFAULTS = {name: value for name, value in _DEFAULTS.items() if name != "num_sanity_val_steps"}


class DefaultTrainer(mlpug.trainers.default_trainer.DefaultTrainer):
    """Describes what is trained, and how Lightning trains it.

    Args:
        optimizers: a `torch.optim.Optimizer`, or several by name.
        model_components: a `torch.nn.Module`, or several by name: what is used after training.
        eager_mode: False compiles the training model with `torch.compile`.
        compile_kwargs: for `torch.compile`.
        on_non_finite: what becomes of a batch whose loss, or a gradient of it, is NaN or infinite: ``"raise"``,
            ``"skip"`` or ``"ignore"``. The first two make the host wait for the device at each batch. Where Lightning
            scales the loss (16-mixed), its scaler deals with the gradients, and the loss alone is looked at.
        precision: ``"32-true"``; ``"bf16-mixed"`` or ``"16-mixed"``: the weights are float32, and most is computed in
            16 bits, with a loss that is scaled dynamically for float16; ``"bf16-true"``: the weights too are bfloat16.
            By default it is ``"32-true"``.
        use_mixed_precision: short for ``"16-mixed"`` on a GPU, and for ``"bf16-mixed"`` elsewhere.
        batch_chunk_size: each batch of the dataset is computed in chunks of at most so many samples, one after the
            other: the same update, with the memory of one chunk. See the page on batches.
        gradient_accumulation_steps: so many batches of the dataset make one batch, for callbacks, logs and schedules
            too. The last one of an epoch has those that are left.
        chunkable_batch_wrapper: with a batch_chunk_size, makes an object with ``__len__`` and slicing of a batch that
            can't be cut by the first axis of its arrays.
        gradient_clip_norm: the gradient of a batch is scaled down to this L2 norm, over all weights of an optimizer,
            where it is larger. Its norm before that is in the logs, ``training.batch.gradient_norm``; with `math.inf`
            it is only measured.
        gradient_clip_value: each number of the gradient is moved into [-gradient_clip_value, gradient_clip_value].
        lightning_trainer: a Lightning `Trainer` to train with, instead of one that is made here.
        lightning_arguments: anything else that a Lightning `Trainer` takes: accelerator, devices, num_nodes, strategy,
            plugins, profiler, ... A `logger`, or a list of them, gets mlpug's metrics by their paths: those of batches
            every `log_every_n_steps` batches, those of datasets at the end of an epoch. Its steps are batches over all
            of training, ``global_iter``.

    Raises:
        ConfigurationError: an argument that Lightning doesn't know, or that is mlpug's to set; an optimizer without
            parameters; and what the core's `DefaultTrainer` refuses.

    >>> classifier = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    >>> trainer = DefaultTrainer(optimizers=optimizer, model_components=classifier, accelerator="cpu")
    >>> trainer.adapter.learning_rates()
    {'optimizer': 0.1}
    """

    def __init__(
        self,
        optimizers: Any,
        model_components: Any = None,
        *,
        eager_mode: bool = True,
        compile_kwargs: Mapping[str, Any] | None = None,
        on_non_finite: str = "ignore",
        precision: str | None = None,
        use_mixed_precision: bool = False,
        batch_chunk_size: int | None = None,
        gradient_accumulation_steps: int = 1,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        gradient_clip_norm: float | None = None,
        gradient_clip_value: float | None = None,
        lightning_trainer: pl.Trainer | None = None,
        **lightning_arguments: Any,
    ) -> None:
        if eager_mode and compile_kwargs is not None:
            raise ConfigurationError("compile_kwargs is used with eager_mode=False only: set that, or leave it out.")
        native = _lightning_trainer(lightning_trainer, lightning_arguments, precision, use_mixed_precision)
        by_name = named(optimizers, "optimizers", "optimizer")
        adapter = LightningAdapter(
            trainer=native,
            optimizers=by_name,
            model_components={} if model_components is None else named(model_components, "model_components", "model"),
            compile_model=None if eager_mode else partial(torch.compile, **(compile_kwargs or {})),
        )
        super().__init__(
            adapter,
            optimizers,
            model_components,
            on_non_finite=on_non_finite,
            batch_chunk_size=batch_chunk_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            chunkable_batch_wrapper=chunkable_batch_wrapper,
            gradient_clip_norm=gradient_clip_norm,
            gradient_clip_value=gradient_clip_value,
            no_checkpoints=no_checkpoints(native, by_name.values()),
        )

    @classmethod
    def from_lightning(
        cls,
        module: pl.LightningModule,
        *,
        val_dataloaders: Any = None,
        batch_chunk_size: int | None = None,
        gradient_accumulation_steps: int = 1,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        lightning_trainer: pl.Trainer | None = None,
        **lightning_arguments: Any,
    ) -> DefaultTrainer:
        """A trainer of a LightningModule as it is: it does what ``Trainer.fit(module)`` does, bit by bit.

        Its steps, hooks, optimizers and schedules are its own, in automatic or manual optimization. What it logs by
        `self.log` is in mlpug's logs by the same names: for a step as ``training.batch.<name>``, beside the loss that
        `training_step` returned, ``training.batch.loss``; for an epoch as ``training.epoch.<name>``; in a validation as
        ``validation.dataset.<name>``. There is no training model to set.

        The training data is given to the `TrainingManager`: whatever ``Trainer.fit`` takes, a loader, a collection of
        them, a LightningDataModule, or the module itself where it has a `train_dataloader`. Lightning asks it, and
        draws from it, in the order of ``Trainer.fit``. The manager's `num_batches_per_epoch` is Lightning's
        `limit_train_batches`.

        Args:
            module: what is trained. It is the model component ``"model"`` of checkpoints.
            val_dataloaders: for its `validation_step`, where neither the module nor a DataModule has any.
            batch_chunk_size: as above, in automatic optimization. A part counts with the samples that it has, or with
                the ``"num_samples"`` in the dict that `training_step` returns. What a batch logs is the mean over its
                parts, also of a metric object.
            gradient_accumulation_steps: as above, in automatic optimization.
            chunkable_batch_wrapper: as above.
            lightning_trainer: a Lightning `Trainer` to train with.
            lightning_arguments: what a Lightning `Trainer` takes, `gradient_clip_val` and `val_check_interval` too.
                With `accumulate_grad_batches` a batch is what Lightning takes for one, and
                ``training.batch.did_update_model`` says after which an update came.

        Raises:
            ConfigurationError: no LightningModule, parts of batches in manual optimization, an argument that Lightning
                doesn't know or that is mlpug's to set.

        >>> class Regression(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(1, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         loss = torch.nn.functional.mse_loss(self.linear(batch), 2 * batch)
        ...         self.log("train_loss", loss)
        ...         return loss
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> trainer = DefaultTrainer.from_lightning(Regression(), accelerator="cpu")
        >>> loader = torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=4)
        >>> manager = TrainingManager(trainer, loader, num_epochs=20)
        >>> manager.start_training()
        >>> manager.logs.at("training.batch.train_loss") < 1e-4
        True
        """
        native = _lightning_trainer(
            lightning_trainer, lightning_arguments, None, False, _OURS_WHEN_PORTED, _PORTED_DEFAULTS
        )
        is_in_parts = Chunking(batch_chunk_size, gradient_accumulation_steps, chunkable_batch_wrapper).is_needed
        trainer = cls.__new__(cls)
        super(DefaultTrainer, trainer).__init__(
            ported_adapter(module, native, val_dataloaders, is_in_parts),
            None,
            module,
            batch_chunk_size=batch_chunk_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            chunkable_batch_wrapper=chunkable_batch_wrapper,
            logs_itself=LOGS,
            no_checkpoints=no_checkpoints(native),
        )
        trainer.set_training_model(module)
        return trainer

    @property
    def native(self) -> Native:
        """Lightning's own `Trainer` and `LightningModule`, for whatever mlpug doesn't wrap.

        The module is made when training starts; its `training_model` is the one that was set.

        >>> classifier = torch.nn.Linear(4, 2)
        >>> trainer = DefaultTrainer(torch.optim.SGD(classifier.parameters()), classifier, accelerator="cpu")
        >>> trainer.native.trainer.accelerator.name(), trainer.native.module
        ('cpu', None)
        """
        adapter: Any = self.adapter
        native: Native = adapter.native
        return native


def _lightning_trainer(
    given: pl.Trainer | None,
    arguments: Mapping[str, Any],
    precision: str | None,
    use_mixed_precision: bool,
    ours: Mapping[str, str] = _OURS,
    defaults: Mapping[str, Any] = _DEFAULTS,
) -> pl.Trainer:
    has_gpu = torch.cuda.is_available() and arguments.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    precision = chosen_precision(precision, use_mixed_precision, has_gpu)
    if precision is not None:
        arguments = {**arguments, "precision": precision}
    if given is None:
        _check_arguments(arguments, ours)
        return _new_trainer({**defaults, **arguments})
    check_is_ours(given)
    if not isinstance(given, pl.Trainer):
        raise ConfigurationError(f"lightning_trainer must be a {pl.__name__}.Trainer, not {given!r}.")
    _check_arguments(arguments, ours)
    if arguments:
        raise ConfigurationError(
            f"{', '.join(arguments)} can't be given together with lightning_trainer: pass them to that Trainer."
        )
    return given


def _new_trainer(arguments: Mapping[str, Any]) -> pl.Trainer:
    loggers = arguments.get("logger")
    for logger in loggers if isinstance(loggers, (list, tuple)) else [loggers]:
        check_is_ours(logger)
    with quiet():
        warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")  # said by an error, below
        trainer = pl.Trainer(**arguments)
    asked = arguments.get("precision", trainer.precision)
    if trainer.precision != asked:
        raise ConfigurationError(
            f"precision={asked!r} is not supported on {type(trainer.accelerator).__name__}: Lightning would compute "
            f"with {trainer.precision!r} instead. Ask for that, or for another accelerator."
        )
    return trainer


def _check_arguments(arguments: Mapping[str, Any], ours: Mapping[str, str]) -> None:
    known = list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
    for name in arguments:
        if name in ours:
            raise ConfigurationError(f"DefaultTrainer doesn't take {name}: {ours[name]}.")
        if name not in known:
            hint = did_you_mean(name, [*known, *ours])
            raise ConfigurationError(f"Neither DefaultTrainer nor Lightning's Trainer takes {name!r}.{hint}")
