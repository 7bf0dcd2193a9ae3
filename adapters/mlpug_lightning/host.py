"""Which Lightning this process uses, and how to keep it quiet.

pytorch-lightning and lightning are the same code under two names, and the classes of one are not those of the other.
The one that the script has loaded is used; pytorch-lightning, the declared dependency, when neither is.
"""

from __future__ import annotations

import atexit
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from mlpug.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
else:
    try:
        import torch

        if "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules:
            import lightning.pytorch as pl
        else:
            import pytorch_lightning as pl
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"mlpug.pytorch needs PyTorch and PyTorch Lightning ({error}): pip install 'mlpug[pytorch]'"
        ) from error

_Kind = TypeVar("_Kind", bound="pl.Callback")

__all__ = [
    "check_is_ours",
    "own_signals",
    "pl",
    "processed_loader",
    "quiet",
    "running",
    "tidy_exit",
    "without_unused_hooks",
]

_OTHER = {"pytorch_lightning": "lightning.pytorch", "lightning.pytorch": "pytorch_lightning"}
_HOOKS_OF_BATCHES = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_batch_end",
)


def without_unused_hooks(kind: type[_Kind]) -> type[_Kind]:
    """A kind of callback without those hooks of a batch that do nothing.

    Lightning passes over what it can't call, and else reads several properties and enters a context for each.
    """
    for name in _HOOKS_OF_BATCHES:
        if getattr(kind, name) is getattr(pl.Callback, name):
            setattr(kind, name, None)
    return kind


def check_is_ours(candidate: object) -> None:
    """Refuse an object of the Lightning package that this process doesn't use."""
    other = _OTHER[pl.__name__]
    if any(base.__module__.startswith(f"{other}.") for base in type(candidate).__mro__):
        raise ConfigurationError(
            f"{type(candidate).__name__} is a class of {other}, and mlpug uses {pl.__name__} here; "
            f"the two don't mix. Import it from {pl.__name__}, or import {other} before mlpug.pytorch."
        )


def processed_loader(trainer: Any, loader: Any) -> Any:
    """The DataLoader as Lightning would use it: with its samplers, its strategy's own, and seeds for its workers."""
    connector = import_module(f"{pl.__name__}.trainer.connectors.data_connector")
    states = import_module(f"{pl.__name__}.trainer.states")
    training = states.RunningStage.TRAINING
    if trainer.overfit_batches > 0:
        combined = import_module(f"{pl.__name__}.utilities.combined_loader").CombinedLoader(loader)
        connector._resolve_overfit_batches(combined, mode=training)
        (loader,) = combined.flattened
    return connector._process_dataloader(trainer, states.TrainerFn.FITTING, training, loader)


# Beginnings of what Lightning says of itself and of its loop; what a callback says was asked for, by verbose=True say.
_NOISE = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡 Tip",
    "`Trainer.fit` stopped: `max_",
    "Using bfloat16 Automatic",
    "Using 16bit Automatic",
)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


@contextmanager
def replaced(holder: Any, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """While an object has another function for a method; one that was set on the object itself is set again."""
    own = vars(holder).get(method)
    setattr(holder, method, function)
    try:
        yield
    finally:
        delattr(holder, method)
        if own is not None:
            setattr(holder, method, own)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's banner, tips and hints: what mlpug prints is what the user sees."""
    logger = logging.getLogger(f"{pl.__name__}.utilities.rank_zero")
    logger.addFilter(_is_no_noise)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # Lightning's, about torch
            warnings.filterwarnings("ignore", ".*Consider setting `persistent_workers=True`.*")
            # Says so of every data loader but one kind; ours goes on where it was.
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
            # Says that a checkpoint holds the weights after the step, as it does in automatic optimization too.
            warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")
            yield
    finally:
        logger.removeFilter(_is_no_noise)


@contextmanager
def running(trainer: pl.Trainer) -> Iterator[None]:
    """Around Lightning's ``fit``: quiet, with the signals left to mlpug, and Ctrl-C as it was pressed."""
    try:
        with quiet(), own_signals(trainer), tidy_exit():
            yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits on Ctrl-C; that isn't ours to do
            raise error.__context__ from None
        raise


@contextmanager
def own_signals(trainer: pl.Trainer) -> Iterator[None]:
    """Without Lightning's handlers: on SIGTERM it would end training by an exception, and the process with status 0."""
    with replaced(trainer._signal_connector, "register_signal_handlers", lambda: None):
        yield


@contextmanager
def tidy_exit() -> Iterator[None]:
    """Let the process leave the group that Lightning makes for several processes before the interpreter ends.

    Else gloo's threads may still run then, and a training that went well ends by SIGABRT. Lightning does
    the same for NCCL alone. A group that was there before is somebody else's.
    """
    distributed = torch.distributed
    was_there = distributed.is_available() and distributed.is_initialized()
    try:
        yield
    finally:
        if not was_there and distributed.is_available() and distributed.is_initialized():
            atexit.register(_leave_group)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def new_result(trainer: Any, saved: Mapping[str, Any]) -> Any:
    """What Lightning makes when something is logged by a name for the first time."""
    results = import_module(f"{pl.__name__}.trainer.connectors.logger_connector.result")
    meta = results._Metadata(**saved["about"], reduce_fx=getattr(torch, saved["reduction"]))
    meta.sync = results._Sync(
        _should=saved["synchronises"], fn=trainer.strategy.reduce, rank_zero_only=saved["is_for_rank_zero"]
    )
    return results._ResultMetric(meta, is_tensor=saved["sums"] is not None)


CombinedLoader = import_module(f"{pl.__name__}.utilities.combined_loader").CombinedLoader


@contextmanager
def asked_through(loop: Any, request: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """Let ``request(ask)`` answer where one of Lightning's loops asks for its loaders."""
    source = loop._data_source
    ask = source.dataloader
    with replaced(source, "dataloader", lambda: request(ask)):
        yield


@contextmanager
def before_validating(trainer: Any, do: Callable[[], None]) -> Iterator[None]:
    """Do something before each validation within ``fit``, before its loaders draw."""
    loop = validation_loop(trainer)
    run = loop.run

    def noting_run() -> Any:
        do()
        return run()

    with replaced(loop, "run", noting_run):
        yield


def dumped_checkpoint(trainer: Any) -> dict[str, Any]:
    """What Lightning would write into a checkpoint now; every hook that it has for that is called."""
    checkpoint: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return checkpoint


def validation_loop(trainer: Any) -> Any:
    """That within ``fit``."""
    return trainer.fit_loop.epoch_loop.val_loop


def train_fetcher(trainer: Any) -> Any:
    """What Lightning's fit loop fetches batches with."""
    return trainer.fit_loop._data_fetcher


def iterators_of(loader: Any) -> list[Any]:
    """Those that a CombinedLoader has made, one for each of its loaders."""
    iterators: list[Any] = loader._iterator.iterators
    return iterators


def set_sampler_epoch(trainer: Any, loaders: Iterable[Any]) -> None:
    """Tell the samplers of these loaders the epoch, as Lightning does before it begins."""
    set_epoch = import_module(f"{pl.__name__}.loops.fit_loop")._set_sampler_epoch
    for loader in loaders:
        set_epoch(loader, trainer.fit_loop.epoch_progress.current.processed)


@contextmanager
def as_in_epoch(trainer: Any, epoch: int | None) -> Iterator[None]:
    """While ``trainer.current_epoch`` is another one."""
    progress = trainer.fit_loop.epoch_progress.current
    own = progress.completed
    progress.completed = own if epoch is None else epoch
    try:
        yield
    finally:
        progress.completed = own


def mid_evaluation() -> Any:
    """What Lightning notes in a loop whose validation has to be run once more before it trains on."""
    return import_module(f"{pl.__name__}.loops.evaluation_loop").RestartStage.RESTARTED_MID_EVALUATION
