"""How a run ends before its time."""

from mlpug.callbacks import Callback


class EndsAt(Callback):
    """After a batch, `end` is called with the run's manager."""

    def __init__(self, global_iter, end):
        self.global_iter, self.end = global_iter, end

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] == self.global_iter:
            self.end(self.manager)


def fail(manager):
    raise ZeroDivisionError("on purpose")
