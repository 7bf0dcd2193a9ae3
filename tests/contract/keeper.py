"""A callback that several suites keep the states of a run with."""

from mlpug import checkpoints
from mlpug.callbacks import Callback


class Keeper(Callback):
    """Saves the state of each rest, with how many batches were done."""

    def __init__(self, folder):
        self.folder, self.saved = folder, []

    def on_rest(self, logs, is_last):
        path = self.folder / f"{len(self.saved)}.safetensors"
        checkpoints.save(path, self.manager.get_state())
        self.saved.append((path, logs["current"]["global_iter"] + 1))
