"""What a script's modules and callbacks hold beside weights and buffers, and what of it a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torchmetrics

from mlpug.adapter import Holder
from mlpug.datasets.reachable import is_of_library
from mlpug_lightning.bridge import is_ours
from mlpug_lightning.checkpoint_hooks import overrides
from mlpug_lightning.host import pl
from mlpug_lightning.observed_loader import combined

_CURE_OF_MODULE = "register_buffer, or get_extra_state and set_extra_state"
_CURE_OF_LIGHTNING = "register_buffer, or on_save_checkpoint and on_load_checkpoint"
_CURE = "state_dict and load_state_dict"


def holders_of_modules(*modules: Any) -> Iterator[Holder]:
    """Modules and what is in them."""
    for module in modules:
        if isinstance(module, torch.nn.Module):
            root = getattr(module, "_orig_mod", module)  # of what torch.compile made
            for path, part in root.named_modules():
                yield _of_module(part, ".".join([type(root).__name__, *filter(None, [path])]))


def holders_of_run(trainer: Any, module: pl.LightningModule) -> Iterator[Holder]:
    """A LightningModule and what is in it, a DataModule, loaders, and Lightning's callbacks.

    What the module's hook keeps is up to it: nothing of the module itself is named where it has one, and of its parts
    nothing that is named in the hook.
    """
    own, *parts = holders_of_modules(module)
    is_kept = own.is_kept or overrides(module, "on_save_checkpoint")
    yield replace(own, cure=_CURE_OF_LIGHTNING, is_kept=is_kept)
    named = _named_in(module.on_save_checkpoint)
    yield from (replace(part, kept={*part.kept, *named}) for part in parts)  # type: ignore[misc]  # they are sets
    if trainer.datamodule is not None:
        yield _with_state_dict(trainer.datamodule, _CURE)
    if trainer.train_dataloader is not None:
        for loader in combined(trainer.train_dataloader).flattened:
            yield _with_state_dict(loader, f"{_CURE} of the loader, as torchdata's StatefulDataLoader has them")
    yield from holders_of_callbacks(trainer)


def holders_of_callbacks(trainer: Any) -> Iterator[Holder]:
    """Lightning's own, and those that the script derives from them."""
    yield from (_with_state_dict(callback, _CURE) for callback in trainer.callbacks if not is_ours(callback))


def holders_of_optimizers(optimizers: Mapping[str, torch.optim.Optimizer]) -> Iterator[Holder]:
    """Optimizers, whose state dict has what they remember in ``self.state``, and their settings."""
    for name, optimizer in optimizers.items():
        yield replace(_with_state_dict(optimizer, f"self.state of the optimizer, or {_CURE}"), name=name)


def _of_module(module: torch.nn.Module, name: str) -> Holder:
    kept: set[str] = set(vars(torch.nn.Module()))
    if isinstance(module, torchmetrics.Metric):
        kept.update(module._defaults)
    is_kept = any(_is_of_script(module, each) for each in ("get_extra_state", "state_dict", "_save_to_state_dict"))
    return Holder(name, module, _CURE_OF_MODULE, is_kept, kept)


def _with_state_dict(holder: Any, cure: str) -> Holder:
    """What is asked for its `state_dict`, where it has one."""
    is_loader = not isinstance(holder, (pl.LightningDataModule, pl.Callback, torch.optim.Optimizer))
    is_kept = hasattr(holder, "state_dict") if is_loader else _is_of_script(holder, "state_dict")
    return Holder(type(holder).__name__, holder, cure, is_kept)


def _is_of_script(holder: Any, method: str) -> bool:
    """Whether the script has written it: what an installed class keeps is its own."""
    return any(method in vars(base) and not is_of_library(base.__module__) for base in type(holder).__mro__)


def _named_in(function: Any) -> set[str]:
    code = getattr(function, "__code__", None)
    return set() if code is None else {*code.co_names, *(each for each in code.co_consts if isinstance(each, str))}
