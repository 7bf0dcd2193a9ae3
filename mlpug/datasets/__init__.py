"""The training dataset: the order of its batches, where a run is in it, and how a resumed run gets there again."""

from mlpug.datasets.epochs import Epochs
from mlpug.datasets.kinds import warn_if_not_rewindable

__all__ = ["Epochs", "warn_if_not_rewindable"]
