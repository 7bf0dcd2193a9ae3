"""Batches in parts for a LightningModule's own `training_step`: the gradient is that of the whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from mlpug.adapter import StepOutput
from mlpug.chunks import Group, group_of, warn_of_none
from mlpug.joining import joined_batches
from mlpug.step_output import joined_outputs
from mlpug_lightning.accumulation import (
    Shares,
    divide,
    gradients_of,
    is_number,
    mean_over_processes,
    parameters_of,
    weighted_mean,
    zero_loss,
)
from mlpug_lightning.host import pl
from mlpug_lightning.module import Latest
from mlpug_lightning.ported_events import as_output

_automatic = import_module(f"{pl.__name__}.loops.optimization.automatic")


class Chunks:
    """Cuts batches when they are on their device, and lets Lightning optimize by what the parts give together.

    Args:
        chunks_of: cuts a batch, or a `Group` of them; None: nothing is done here.
        latest: where the chunks of the batch under way are.
        trainer: Lightning's.
        module: the user's.
    """

    def __init__(
        self,
        chunks_of: Callable[[Any], list[Any]] | None,
        latest: Latest,
        trainer: pl.Trainer,
        module: pl.LightningModule,
    ) -> None:
        self._chunks_of = chunks_of
        self._latest = latest
        self._trainer: Any = trainer
        self._module: Any = module
        self._has_warned = False  # of a batch that is None

    @contextmanager
    def used(self) -> Iterator[None]:
        """For the time of a ``fit``."""
        if self._chunks_of is None:
            yield
            return
        loop, module = self._trainer.fit_loop.epoch_loop, self._module
        original = loop.automatic_optimization
        loop.automatic_optimization = _InChunks(self._trainer, self._latest)
        before, move = module._on_before_batch_transfer, module._apply_batch_transfer_handler

        def each_before(batch: Any, dataloader_idx: int = 0) -> Any:
            if not isinstance(batch, Group):
                return before(batch, dataloader_idx)
            self._look_for_none(batch)
            group = group_of(batch)
            return None if group is None else Group(before(part, dataloader_idx) for part in group)

        def each_moved(batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
            if batch is None:
                self._look_for_none([batch])
                return None
            parts = batch if isinstance(batch, Group) else (batch,)
            moved = Group(move(part, device, dataloader_idx) for part in parts)
            if self._trainer.training:  # what is validated on isn't cut
                self._latest.chunks = self._chunks_of(moved)  # type: ignore[misc]
            return joined_batches(moved, torch.cat)

        module._on_before_batch_transfer, module._apply_batch_transfer_handler = each_before, each_moved
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "train_dataloader yielded None")  # said here, of parts too
                yield
        finally:
            del module._on_before_batch_transfer, module._apply_batch_transfer_handler
            loop.automatic_optimization = original

    def _look_for_none(self, parts: Iterable[Any]) -> None:
        if not self._has_warned and any(part is None for part in parts):
            self._has_warned = True
            warn_of_none()


class _InChunks(_automatic._AutomaticOptimization):  # type: ignore[misc, name-defined]
    """Lightning's automatic optimization, of a batch whose parts are computed one after the other."""

    def __init__(self, trainer: pl.Trainer, latest: Latest) -> None:
        super().__init__(trainer)
        self.optim_progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
        self._latest = latest

    def _make_closure(self, kwargs: Any, optimizer: torch.optim.Optimizer, batch_idx: int) -> Any:
        zero_grad = self._make_zero_grad_fn(batch_idx, optimizer)
        backward = self._make_backward_fn(optimizer)

        def step() -> Any:
            if zero_grad is not None:
                zero_grad()
            return self._of_chunks(kwargs, backward, optimizer)

        return _automatic.Closure(step_fn=step)

    def _of_chunks(self, kwargs: Any, backward: Any, optimizer: torch.optim.Optimizer) -> Any:
        shares = Shares(mean_over_processes(self.trainer.strategy, self.trainer.world_size))
        chunks, logged = self._latest.chunks, _Logged(self.trainer)
        is_alone = self.trainer.world_size == 1
        outputs: list[StepOutput] = []
        (batch_name, _), *_ = kwargs.items()
        for number, chunk in enumerate(chunks):
            blocks = number < len(chunks) - 1
            # Around the forward pass too: what it was when that ran decides whether gradients are reduced.
            with _automatic._block_parallel_sync_behavior(self.trainer.strategy, block=blocks):
                with logged.of(chunk):
                    result = self._training_step(type(kwargs)(kwargs, **{batch_name: chunk}))
                output = as_output(result.asdict() if result.loss is not None else {}, chunk)
                logged.weigh(output.num_samples)
                weight = shares.weigh(output.num_samples)
                if backward is not None and not is_number(weight, 0.0):
                    backward(result.closure_loss * weight)
                elif backward is not None and not is_alone and not blocks:  # the others wait for its gradients
                    backward(zero_loss(parameters_of(optimizer)))
            outputs.append(output)
        divide(gradients_of(parameters_of(optimizer)), shares.total())
        logged.join()
        whole = joined_outputs(outputs, torch.cat, weighted_mean)
        if is_alone and shares.is_empty:
            return _automatic.ClosureResult(None)
        extra = {**(whole.auxiliary_results or {}), "num_samples": whole.num_samples}
        return _automatic.ClosureResult(whole.loss, extra=extra)


class _Logged:
    """What the parts of a batch log by `self.log`, as if the batch had: the mean of their values."""

    def __init__(self, trainer: Any) -> None:
        self._results = trainer.fit_loop.epoch_loop._results
        self._values: dict[str, list[Any]] = {}
        self._weights: dict[str, list[Any]] = {}
        self._new: list[str] = []

    @contextmanager
    def of(self, chunk: Any) -> Iterator[None]:
        """While a part is computed, values count for its samples."""
        before = {key: item._forward_cache for key, item in self._results.items()}
        whole = self._results.batch
        self._results.batch, self._results.batch_size = chunk, None
        yield
        self._results.batch, self._results.batch_size = whole, None
        self._new = [
            key
            for key, item in self._results.items()
            if item.meta.on_step
            and isinstance(item._forward_cache, torch.Tensor)
            and item._forward_cache is not before.get(key)
        ]

    def weigh(self, num_samples: Any) -> None:
        """How many samples the part had that was computed last."""
        for key in self._new:
            self._values.setdefault(key, []).append(self._results[key]._forward_cache)
            self._weights.setdefault(key, []).append(num_samples)

    def join(self) -> None:
        """Show the values of the batch."""
        for key, values in self._values.items():
            if len(values) > 1:
                self._results[key]._forward_cache = weighted_mean(values, self._weights[key])
