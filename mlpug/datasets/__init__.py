"""The training dataset: the order of its batches, where a run is in it, and how a resumed run gets there again."""

from mlpug.datasets.drawn_by_host import DrawnByHost
from mlpug.datasets.epochs import Epochs

__all__ = ["DrawnByHost", "Epochs"]
