"""Trains a compiled model by the step that its own ``fit`` makes, on batches that mlpug has fetched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import keras

from mlpug.adapter import StepOutput
from mlpug.errors import TrainingModelError
from mlpug.step_output import counted
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_keras.arrays import as_array
from mlpug_keras.batch_loss import BatchLoss, taken_from
from mlpug_keras.chunk_shares import ChunkShares
from mlpug_keras.compiled_model import CompiledModel, latest_of, overrides, patched
from mlpug_keras.fit_feed import FitFeed
from mlpug_keras.heard_function import Listener, heard_function
from mlpug_keras.model import Latest
from mlpug_keras.optimizers import Optimizers

host = import_module(f"mlpug_keras.{keras.config.backend()}_fit")
Step = import_module(f"mlpug_keras.{keras.config.backend()}_step").Step


class FitStep:
    """The step of a compiled model.

    Args:
        model: the user's.
        has_chunks: whether batches are computed in parts: then by mlpug's own step, with the compiled loss and metrics.

    Attributes:
        latest: the batch that is trained on, and what it gave.
        logs: what the step said last, as ``fit`` has them: means over the epoch so far, still on the device.
        keeps_states: whether the run may be resumed.
        first: what the next step is made in; None where nothing is around it.
    """

    def __init__(self, model: keras.Model, has_chunks: bool) -> None:
        self.latest = Latest()
        self.logs: dict[str, Any] = {}
        self.keeps_states = False
        self.first: Callable[[], AbstractContextManager[None]] | None = None
        self._model = model
        self._view = CompiledModel(model, self.latest)
        make = partial(Step, self._view, eager=model.run_eagerly, compile_kwargs={}, signature=None)
        self._optimizers = Optimizers({"optimizer": model.optimizer}) if has_chunks else None
        self._chunked = make(optimizers=self._optimizers) if has_chunks else None
        nothing = SimpleNamespace(variables=[], is_built=False)
        self._evaluating = make(optimizers=nothing)
        make_step = partial(Step, optimizers=nothing, **make.keywords)
        self._shares = ChunkShares(model, self._view, make_step)
        self._own_test_step = bool(overrides(model, "test_step"))

    @contextmanager
    def in_fit(self, feed: FitFeed, on_taken: Callable[[], None], on_trained: Callable[[], None]) -> Iterator[None]:
        """Within, the model's ``fit`` trains on the batches of the feed.

        Args:
            feed: has the batches of ``fit``; a step on anything else, of a callback's own, is the model's own step.
            on_taken: called when the batch is there, before it is trained on.
            on_trained: called after the step.
        """
        model = self._model
        self._view.keeps_states = self.keeps_states
        kept, make_own = model.train_function, model.make_train_function
        train = partial(self._train, on_trained)
        counts = not overrides(model, "train_step")
        step = host.telling_loss(model, lambda usable: BatchLoss(model, usable, counts), lambda: self.keeps_states)
        try:
            if self._chunked is None:
                trained, run_out = host.as_train_function(train, step, self.latest, model, feed)
            else:
                trained, run_out = host.as_chunked_function(train, self._train_chunks, model), host.nothing_runs_out

            def function(*arguments: Any) -> Any:
                if arguments[-1] is not feed.pulls:
                    return own()(*arguments)
                was_exhausted = feed.is_exhausted
                if feed.take():
                    on_taken()
                elif feed.is_exhausted:
                    if feed.has_trained and not was_exhausted:
                        run_out()
                    if feed.has_stepped:  # else an epoch that is resumed at its end: Keras needs a step in each
                        raise StopIteration
                feed.has_stepped = True
                return trained(*arguments)

            @cache
            def own() -> Callable[..., Any]:
                model.train_function = None
                make_own()
                made, model.train_function = model.train_function, function
                return made  # type: ignore[no-any-return]

            model.train_function = function
            with patched(model, make_train_function=lambda force=False: function):
                yield
        finally:
            model.train_function = kept

    @contextmanager
    def beside_fit(
        self,
        on_data: Callable[[Any], None],
        on_trained: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> Iterator[None]:
        """Within, a ``fit`` trains as it does without mlpug, and what its latest step gave is kept.

        Args:
            on_data: called with what batches are like.
            on_trained: called after each step.
            on_error: called with what a step raises, before it is raised.
        """
        heard = heard_function(self._model, host)
        listener = Listener(on_data, self._heard, on_trained, on_error, self.keeps_states)
        heard.listeners.append(listener)
        try:
            yield
        finally:
            heard.leave(listener)

    def _heard(self, told: tuple[dict[str, Any], Any, Any, bool]) -> None:
        self.logs, loss, num_samples, self.latest.did_update = told
        loss = _loss_in(self.logs) if loss is None else loss
        self.latest.step_output = StepOutput(loss, 1 if num_samples is None else num_samples)

    def build_chunks(self) -> None:
        """Let the optimizer know its variables, once the model is built."""
        if self._optimizers is not None:
            self._optimizers.build(self._view)

    def check_trained(self) -> None:
        """Refuse what mlpug's own step can't follow; the model's own says so itself."""
        if self._chunked is not None:
            self._chunked.check_trained()

    def evaluate(self, batch: Any) -> StepOutput:
        """The compiled loss in inference mode and the predictions; the loss alone where there is a test_step."""
        if self._own_test_step:
            return StepOutput(self._loss_of_test_step(batch), counted(None, batch))
        loss, num_samples, predictions = self._evaluating.evaluate(batch, None)
        return StepOutput(loss, counted(num_samples, batch), predictions)

    def _train(self, on_trained: Callable[[], None], call: Callable[[Any], Any]) -> dict[str, Any]:
        latest = self.latest
        if latest.batch is None:
            return self.logs  # all batches of the epoch were trained on before the run was resumed, or it is stopped
        try:
            returned = call(latest.batch) if self.first is None else self._first_of(call)
            logs, loss, num_samples, did_update = taken_from(returned or {})
        except StopIteration as error:
            raise EscapedStopIterationError(error) from error
        self.logs = logs
        if latest.step_output is None:
            latest.did_update = did_update
            loss = _loss_in(logs) if loss is None else loss
            latest.step_output = StepOutput(loss, counted(num_samples, latest.batch))
        on_trained()
        return logs

    def _first_of(self, call: Callable[[Any], Any]) -> Any:
        assert self.first is not None
        first, self.first = self.first, None
        with first():
            return call(self.latest.batch)

    def _train_chunks(self) -> dict[str, Any]:
        assert self._chunked is not None
        chunks = self._shares.weighed(self.latest.chunks)
        output, self.latest.did_update, _ = self._chunked.train(chunks, None, looks=False, clipping=None)
        self.latest.step_output = StepOutput(output.loss, output.num_samples)
        return latest_of(output.auxiliary_results)

    def _loss_of_test_step(self, batch: Any) -> Any:
        model = self._model
        kept = [as_array(variable) for variable in model.metrics_variables]
        model.reset_metrics()
        model.make_test_function()
        try:
            logs = host.tested(model, batch)
        finally:
            for variable, value in zip(model.metrics_variables, kept, strict=False):
                variable.assign(value)
        if "loss" not in logs:
            raise TrainingModelError(
                f'{type(model).__name__}.test_step returns {", ".join(logs) or "nothing"}, and no "loss": add that.'
            )
        return logs["loss"]


def _loss_in(logs: Mapping[str, Any]) -> Any:
    """What a step calls its loss, or all that it tells, where it tells of several; NaN where it tells nothing."""
    return logs.get("loss", dict(logs) or math.nan)
