"""What a module's `on_save_checkpoint` and `on_load_checkpoint` are shown: what Lightning shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpug.plain import from_plain, to_plain
from mlpug_lightning.arrays import leaf_from_plain, leaf_to_plain
from mlpug_lightning.host import dumped_checkpoint, pl, replaced
from mlpug_lightning.state import native_optimizer_state


def kept_by_module(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """What the module's hook adds to a checkpoint of Lightning's, and what else its other hook finds there.

    What it changes of Lightning's own part isn't kept: a resumed run has that part from mlpug.
    """
    if not overrides(module, "on_save_checkpoint") and not overrides(module, "on_load_checkpoint"):
        return {"added": {}, "loops": {}}
    original, added = module.on_save_checkpoint, {}

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        before = set(checkpoint)
        original(checkpoint)
        added.update({name: value for name, value in checkpoint.items() if name not in before})

    with replaced(module, "on_save_checkpoint", on_save_checkpoint):
        checkpoint = dumped_checkpoint(trainer)
    plain: dict[str, Any] = to_plain({"added": added, "loops": checkpoint["loops"]}, leaf_to_plain)
    return plain


def checkpoint_to_load(trainer: pl.Trainer, module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What `on_load_checkpoint` finds: a checkpoint as Lightning's, made of a resumed run's state."""
    host = state["lightning"]
    kept = from_plain(host["kept"]["module"], leaf_from_plain)
    return {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "pytorch-lightning_version": str(vars(pl)["__version__"]),
        "state_dict": module.state_dict(),
        "loops": kept["loops"],
        "callbacks": from_plain(host["callbacks"], leaf_from_plain),
        "optimizer_states": [native_optimizer_state(each) for each in state["optimizers"].values()],
        "lr_schedulers": from_plain(host["schedules"], leaf_from_plain),
        **kept["added"],
    }


def overrides(module: Any, hook: str) -> bool:
    """Whether a module has a hook of its own."""
    return hook in vars(module) or getattr(type(module), hook) is not getattr(pl.LightningModule, hook)
