"""What was due, and couldn't be written: it stays due."""

from __future__ import annotations

from dataclasses import replace

from mlpug.callbacks.checkpoint_schedule import NOTHING, Plan, without

Position = tuple[int, str | None]  # batches done, and what ended last


class Owed:
    """What is to be written as soon as that can be done.

    An archived model, the latest one and the training checkpoint are of the moment at which they are written at last.
    The best model is that of its own moment, or it is gone.

    >>> owed = Owed()
    >>> owed.failed(Plan(archive=True), (7, "batch"))
    >>> owed.added_to(NOTHING, (8, "batch"), is_last=False, is_alone=True).archive
    True
    """

    def __init__(self) -> None:
        self._plan = NOTHING
        self._position: Position | None = None
        self._retry_at = 0  # batches done
        self._gap = 1  # batches; doubled each time, so that a disk that stays full costs next to nothing

    def failed(self, missing: Plan, position: Position) -> None:
        """These weren't written."""
        self._plan, self._position = _either(self._plan, missing), position
        self._retry_at, self._gap = position[0] + self._gap, 2 * self._gap

    def written(self, plan: Plan) -> None:
        """These were."""
        if self._plan is not NOTHING:
            self._plan = without(self._plan, plan)
        if not self._plan.saves:
            self._plan, self._gap = NOTHING, 1

    @property
    def is_empty(self) -> bool:
        """Whether all that was due was written."""
        return self._plan is NOTHING

    def added_to(self, plan: Plan, position: Position, is_last: bool, is_alone: bool) -> Plan:
        """What to write now.

        Args:
            plan: What is due now.
            position: Where training is.
            is_last: Whether this is the last chance.
            is_alone: Whether there is no other process: others don't know what has failed, and take part only in what
                is due.
        """
        owed = self._plan
        if position != self._position:
            owed = replace(owed, save_best=False)
        if not is_alone:
            owed = replace(
                owed,
                save_best=owed.save_best and plan.saves_model,
                save_latest=owed.save_latest and plan.saves_model,
                archive=owed.archive and plan.saves_model,
                save_training=False,  # where it is due, it is in the plan
            )
        elif not (plan.saves or is_last or position[0] >= self._retry_at):
            return plan
        return _either(plan, owed)


def _either(plan: Plan, other: Plan) -> Plan:
    return Plan(
        is_best=plan.is_best,
        save_best=plan.save_best or other.save_best,
        save_latest=plan.save_latest or other.save_latest,
        archive=plan.archive or other.archive,
        save_training=plan.save_training or other.save_training,
    )
