"""``mlpug.tensorflow.trainers`` and ``mlpug.jax.trainers``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras

import mlpug.trainers.default_trainer
from mlpug.chunks import ChunkableBatch
from mlpug.errors import ConfigurationError
from mlpug.precision import chosen_precision
from mlpug.trainers import TrainingManager
from mlpug.trainers.default_trainer import named
from mlpug_keras.adapter import KerasAdapter
from mlpug_keras.fit_arguments import refuse_arguments
from mlpug_keras.fit_data import FitOptions
from mlpug_keras.fit_validation import Validation
from mlpug_keras.from_keras import logs_itself, ported_adapter

_Step = import_module(f"mlpug_keras.{keras.config.backend()}_step").Step

__all__ = ["DefaultTrainer", "TrainingManager"]


class DefaultTrainer(mlpug.trainers.default_trainer.DefaultTrainer):
    """Describes what is trained, and how Keras trains it.

    Args:
        optimizers: a `keras.optimizers.Optimizer`, which trains every trainable variable of the training model, or
            several by name.
        model_components: a Keras model or layer, or several by name: what is used after training.
        eager_mode: True runs each step without compiling it: slower, and easier to debug.
        compile_kwargs: for `tf.function` or `jax.jit`.
        batch_data_signature: what each batch must be like: the same nesting, with something that has a shape and a
            dtype (a `tf.TensorSpec`, a `jax.ShapeDtypeStruct`, ...) in the place of each array; None in a shape is any
            length.
        on_non_finite: what becomes of a batch whose loss, or a gradient of it, is NaN or infinite: ``"raise"``,
            ``"skip"`` or ``"ignore"``. The first two make the host wait for the device at each batch. Where the
            optimizer is a `keras.optimizers.LossScaleOptimizer`, it deals with the gradients, and the loss alone is
            looked at.
        trainable_variables: where there are several optimizers, what each of them trains: for each name a layer, or a
            list of layers and variables.
        precision: ``"32-true"``; ``"bf16-mixed"`` or ``"16-mixed"``: the weights are float32, and most is computed in
            16 bits, with a loss that is scaled dynamically for float16; ``"bf16-true"``: the weights too are bfloat16.
            It is the dtype policy of the layers: a model that was made under another one is converted, with the
            weights that it has. By default it is as the model was made.
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

    Raises:
        ConfigurationError: not an optimizer of Keras 3; several, and trainable_variables that are missing or overlap;
            compile_kwargs without compiling, or with a name that the compiler doesn't take; and what the core's
            `DefaultTrainer` refuses.

    >>> classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> trainer = DefaultTrainer(optimizers=keras.optimizers.SGD(0.5), model_components=classifier)
    >>> trainer.adapter.learning_rates()
    {'optimizer': 0.5}
    """

    def __init__(
        self,
        optimizers: Any,
        model_components: Any = None,
        *,
        eager_mode: bool = False,
        compile_kwargs: Mapping[str, Any] | None = None,
        batch_data_signature: Any = None,
        on_non_finite: str = "ignore",
        trainable_variables: Mapping[str, Any] | None = None,
        precision: str | None = None,
        use_mixed_precision: bool = False,
        batch_chunk_size: int | None = None,
        gradient_accumulation_steps: int = 1,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        gradient_clip_norm: float | None = None,
        gradient_clip_value: float | None = None,
    ) -> None:
        if eager_mode and compile_kwargs is not None:
            raise ConfigurationError("compile_kwargs is used with eager_mode=False only: set that, or leave it out.")
        _check_compile_kwargs(compile_kwargs or {})
        adapter = KerasAdapter(
            optimizers=named(optimizers, "optimizers", "optimizer"),
            model_components={} if model_components is None else named(model_components, "model_components", "model"),
            step=_Step,
            eager=eager_mode,
            compile_kwargs=compile_kwargs or {},
            signature=batch_data_signature,
            trainable_variables=trainable_variables,
            precision=chosen_precision(precision, use_mixed_precision, has_gpu=_Step.has_gpu()),
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
        )

    @classmethod
    def from_keras(
        cls,
        model: keras.Model,
        *,
        validation_data: Any = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        batch_size: int | None = None,
        shuffle: bool | str = True,
        class_weight: Mapping[int, float] | None = None,
        validation_split: float = 0.0,
        batch_chunk_size: int | None = None,
        gradient_accumulation_steps: int = 1,
        chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None,
        **elsewhere: Any,
    ) -> DefaultTrainer:
        """The trainer of a compiled model: it is trained by its own ``fit``, as it would be without mlpug.

        The training dataset is what ``fit`` takes: anything that gives batches ``(x,)``, ``(x, y)`` or
        ``(x, y, sample_weight)``, or such a *tuple* of arrays, which is cut into batches as ``fit`` does. A *list* is a
        list of batches.

        In the logs are ``training.batch.loss``, the loss of the batch; ``training.epoch.<name>``, what ``fit`` tells
        its callbacks: means over the epoch so far; and ``validation.dataset.<name>``, of `validation_data`. Where a
        ``train_step`` of the model's own updates no metric that is called ``"loss"``, the loss of the batch is what the
        step itself calls so.

        Args:
            model: compiled, with an optimizer; Sequential, functional, or a class with steps of its own.
            validation_data: as for ``fit``, which evaluates it at the end of epochs.
            validation_steps: as for ``fit``.
            validation_batch_size: as for ``fit``.
            validation_freq: as for ``fit``.
            batch_size: of training data given as arrays; None: 32.
            shuffle: whether the order of arrays, and of the batches of a `keras.utils.PyDataset`, is drawn in each
                epoch; ``"batch"``: that of the samples within each batch of arrays.
            class_weight: as for ``fit``.
            validation_split: as for ``fit``: the last part of training data given as arrays is validation data.
            batch_chunk_size: each batch is computed in chunks of at most so many samples, one after the other, by
                mlpug's own step: the gradient is that of the whole batch, whatever the compiled losses divide by.
            gradient_accumulation_steps: so many batches of the dataset make one batch.
            chunkable_batch_wrapper: with a batch_chunk_size, makes an object with ``__len__`` and slicing of a batch.
            elsewhere: what else ``fit`` takes, such as `epochs`, is refused with where it belongs.

        Raises:
            ConfigurationError: not a compiled `keras.Model`, or one that was compiled for several batches a step or
                without an optimizer; chunks, and a model that has a ``train_step`` or a ``make_train_function`` of its
                own, or a loss of which nobody knows how those of chunks make that of a batch; or an argument that can't
                work.

        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(0.1), loss="mse", metrics=["mae"])
        >>> x = np.linspace(-1, 1, 40, dtype="float32")[:, None]
        >>> trainer = DefaultTrainer.from_keras(model, batch_size=10, validation_data=(x, 2 * x))
        >>> manager = TrainingManager(trainer, (x, 2 * x), num_epochs=20)
        >>> manager.start_training()
        >>> sorted(manager.logs.at("validation.dataset"))
        ['loss', 'mae']
        >>> manager.logs.at("validation.dataset.loss") < 0.01
        True
        """
        refuse_arguments(elsewhere, _arguments_of(cls.from_keras))
        validation = Validation(validation_data, validation_steps, validation_batch_size, validation_freq)
        options = FitOptions(batch_size, shuffle, class_weight, validation_split)
        has_chunks = batch_chunk_size is not None or gradient_accumulation_steps != 1
        adapter = ported_adapter(model, options, validation, has_chunks)
        trainer = cls.__new__(cls)
        mlpug.trainers.default_trainer.DefaultTrainer.__init__(
            trainer,
            adapter,
            model.optimizer,
            model,
            batch_chunk_size=batch_chunk_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            chunkable_batch_wrapper=chunkable_batch_wrapper,
            logs_itself=logs_itself(model, validation, options),
        )
        trainer.training_model = model
        return trainer

    @property
    def native(self) -> Any:
        """The `keras.Model` that Keras's ``fit`` trains, for whatever mlpug doesn't wrap; None before there is one.

        Its `training_model` is the one that was set, and its `optimizer` the first one.

        >>> classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> DefaultTrainer(keras.optimizers.SGD(), classifier).native is None
        True
        """
        adapter: Any = self.adapter
        return adapter.native


def _arguments_of(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _check_compile_kwargs(arguments: Mapping[str, Any]) -> None:
    known = list(inspect.signature(_Step.compiler).parameters)[1:]  # without the function to compile
    for name in arguments:
        if name not in known:
            raise ConfigurationError(
                f"compile_kwargs has {name!r}, which {_Step.compiler.__name__} doesn't take. Known: {', '.join(known)}."
            )
