"""What the training of a LightningModule needs to go on, beside weights and optimizers: as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpug.datasets.random_states import is_same_plain
from mlpug.errors import CheckpointMismatchError
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.arrays import leaf_from_plain, leaf_to_plain
from mlpug_lightning.checkpoint_hooks import checkpoint_to_load, kept_by_module
from mlpug_lightning.host import mid_evaluation, new_result, pl
from mlpug_lightning.ported_metrics import MetricStates, load_metrics
from mlpug_lightning.settings import ScriptSettings
from mlpug_lightning.state import load_native_state, loop_state, native_state, start_loops_at

_SHOWN = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")  # of the logger connector
_OF_RESULTS = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def host_state(
    trainer: pl.Trainer, module: pl.LightningModule, metrics: MetricStates, first_epoch: int, is_settled: bool
) -> dict[str, Any]:
    """Loops, schedules, callbacks, what was logged, and what the module and its DataModule keep themselves."""
    loop: Any = trainer.fit_loop.epoch_loop
    progress = loop.batch_progress
    return {
        "loops": {
            **loop_state(trainer, first_epoch),
            "optimizer_steps": trainer.global_step,
            "batches_that_stepped": loop._batches_that_stepped,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "is_settled": is_settled,
            # And not the one under way, in which an error came.
            "is_last_batch": progress.is_last_batch and progress.current.processed == progress.current.ready,
        },
        **native_state(trainer),
        "schedules": schedules_state(trainer),
        "logged": shown_state(trainer),
        "results": _results_state(trainer),
        **metrics.state(),
        "kept": _kept_by_hooks(trainer, module),
    }


def left_to_do(trainer: pl.Trainer, stepped_before: int) -> dict[str, Any]:
    """What Lightning's loop hasn't done for a batch that has ended, where an error came before the next.

    Args:
        trainer: Lightning's.
        stepped_before: what its loop had counted for loggers when the batch ended.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return {
        "batches_that_stepped": stepped_before,
        "has_stepped": not loop._should_accumulate(),
        "is_plateau_left": loop._batches_that_stepped == stepped_before,  # those are updated right before
    }


def schedules_state(trainer: pl.Trainer) -> Any:
    """Of the learning-rate schedulers."""
    return _plain([config.scheduler.state_dict() for config in trainer.lr_scheduler_configs])


def shown_state(trainer: pl.Trainer) -> dict[str, Any]:
    """What Lightning shows of what was logged."""
    return {name: _plain(_own(getattr(trainer._logger_connector, name))) for name in _SHOWN}


def start_counting(trainer: pl.Trainer, state: Mapping[str, Any], num_epochs: int, num_batches: int) -> None:
    """Before Lightning's ``fit``: let its loops count on."""
    loops = state["loops"]
    start_loops_at(trainer, loops, num_epochs, num_batches)
    loop: Any = trainer.fit_loop.epoch_loop
    step = loop.automatic_optimization.optim_progress.optimizer.step
    for progress in (step.total, step.current):
        progress.ready = progress.completed = loops["optimizer_steps"]
    loop._batches_that_stepped = loops["batches_that_stepped"]


def load_before_hooks(trainer: pl.Trainer, module: pl.LightningModule, whole: Mapping[str, Any]) -> None:
    """What Lightning restores before anybody hears that ``fit`` starts: callbacks, and what hooks kept.

    Args:
        trainer: Lightning's.
        module: the user's.
        whole: of the run, what the adapter's `state` gave.
    """
    state = whole["lightning"]
    load_native_state(trainer, state)
    module.on_load_checkpoint(checkpoint_to_load(trainer, module, whole))
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # set where no type checker sees it
    of_data = from_plain(state["kept"]["datamodule"], leaf_from_plain)
    if datamodule is not None and of_data:
        datamodule.load_state_dict(of_data)
    load_metrics(module, state)


def load_after_hooks(trainer: pl.Trainer, module: pl.LightningModule, whole: Mapping[str, Any]) -> None:
    """The same when everybody has heard that training starts: some begin anew then, as they do in any run.

    What hooks keep is given back once more only where something has changed it: they may do more than to set it.
    """
    state = whole["lightning"]
    load_native_state(trainer, state, only_changed=True)
    if not is_same_plain(kept_by_module(trainer, module)["added"], state["kept"]["module"]["added"]):
        module.on_load_checkpoint(checkpoint_to_load(trainer, module, whole))
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # set where no type checker sees it
    if datamodule is not None and not is_same_plain(_plain(datamodule.state_dict()), state["kept"]["datamodule"]):
        datamodule.load_state_dict(from_plain(state["kept"]["datamodule"], leaf_from_plain))
    load_metrics(module, state)


def load_schedules(trainer: pl.Trainer, state: Mapping[str, Any], script: ScriptSettings | None) -> None:
    """The learning-rate schedulers, once they are there; with the script's own rates where its settings are given."""
    schedules = from_plain(state["schedules"], leaf_from_plain)
    configs = trainer.lr_scheduler_configs
    if len(schedules) != len(configs):
        raise CheckpointMismatchError(
            f"The checkpoint has {len(schedules)} learning-rate schedulers, and configure_optimizers gives "
            f"{len(configs)}: give as many, or start anew from the weights, by mlp.load_model_checkpoint(path)."
        )
    if script is not None:
        script.go_on([config.scheduler for config in configs], schedules)
        return
    for config, schedule in zip(configs, schedules, strict=True):
        config.scheduler.load_state_dict(schedule)


def load_when_started(
    trainer: pl.Trainer, module: pl.LightningModule, state: Mapping[str, Any], num_batches: int
) -> None:
    """When training starts: what was logged, and where in its loop Lightning is.

    Args:
        trainer: Lightning's.
        module: the user's.
        state: what `host_state` gave.
        num_batches: of the epoch that goes on; 0 at the start of one.
    """
    connector: Any = trainer._logger_connector
    for name, shown in state["logged"].items():
        getattr(connector, name).update(from_plain(shown, leaf_from_plain))
    _load_results(trainer, module, state["results"])
    fit_loop: Any = trainer.fit_loop
    fit_loop._restarting = False  # else it would leave out the schedules at the end of this epoch
    loop = fit_loop.epoch_loop
    if not num_batches:
        return
    loop.batch_progress.is_last_batch = state["loops"]["is_last_batch"]
    connector._first_loop_iter = True  # of a batch before: what was logged in the epoch goes on
    if state["loops"]["is_settled"]:
        loop._should_check_val_fx = _Once(loop)
    else:
        loop.val_loop._restarting, loop.val_loop._restart_stage = False, mid_evaluation()
        loop._should_check_val_fx = _Unsettled(loop, state["loops"])


class _Once:
    """In the place of a loop's question whether a validation is due: it isn't, the first time.

    A resumed epoch asks before its first batch, of the batch before: and that one is done with.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __call__(self, data_fetcher: Any) -> bool:
        del self._loop._should_check_val_fx  # the method is seen again
        return False


class _Unsettled:
    """In the place of the same question, for a batch that Lightning isn't done with.

    Where a validation is due, Lightning repeats it, and does then what comes behind. Else that is left to be done.
    """

    def __init__(self, loop: Any, saved: Mapping[str, Any]) -> None:
        self._loop = loop
        self._saved = saved

    def __call__(self, data_fetcher: Any) -> bool:
        loop = self._loop
        del loop._should_check_val_fx  # the method is seen again
        is_due: bool = loop._should_check_val_fx(data_fetcher)
        if not is_due and self._saved.get("has_stepped"):  # a file of an earlier mlpug doesn't say
            if self._saved["is_plateau_left"]:
                loop.update_lr_schedulers("step", update_plateau_schedulers=True)
            loop._batches_that_stepped += 1
        return is_due


def _own(shown: dict[str, Any]) -> dict[str, Any]:
    """What Lightning itself put there, and not what it shows of mlpug's logs beside it."""
    return dict(dict.items(shown))


def _plain(tree: Any) -> Any:
    return to_plain(tree, leaf_to_plain)


def _results_state(trainer: Any) -> dict[str, Any]:
    """What was logged in this epoch, as far as it is summed up. Metric objects have states of their own."""
    return {
        key: {
            "about": {name: getattr(item.meta, name) for name in _OF_RESULTS},
            "reduction": item.meta.reduce_fx.__name__,
            "synchronises": item.meta.sync.should,
            "is_for_rank_zero": item.meta.sync.rank_zero_only,
            "sums": _plain({name: getattr(item, name) for name in item._defaults}) if item.is_tensor else None,
            "latest": _plain(item._forward_cache),
            "update_count": item._update_count,
        }
        for key, item in trainer.fit_loop.epoch_loop._results.items()
        if not item.has_reset and (item.is_tensor or item.meta.metric_attribute is not None)
    }


def _load_results(trainer: Any, module: pl.LightningModule, state: Mapping[str, Any]) -> None:
    device = trainer.strategy.root_device
    for key, saved in state.items():
        item = new_result(trainer, saved)
        if saved["sums"] is None:
            item.value = module.get_submodule(saved["about"]["metric_attribute"])
        else:
            for name, value in from_plain(saved["sums"], leaf_from_plain).items():
                setattr(item, name, value.to(device))
        latest = from_plain(saved["latest"], leaf_from_plain)
        item._forward_cache = None if latest is None else latest.to(device)
        item._update_count = saved["update_count"]
        trainer.fit_loop.epoch_loop._results[key] = item


def _kept_by_hooks(trainer: Any, module: pl.LightningModule) -> dict[str, Any]:
    datamodule = trainer.datamodule
    return {
        "module": kept_by_module(trainer, module),
        "datamodule": _plain({} if datamodule is None else datamodule.state_dict()),
    }
