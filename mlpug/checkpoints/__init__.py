"""Checkpoint files: one file each, written whole or not at all, and verified byte for byte when read.

A checkpoint is a `.safetensors` file that other tools open too: the arrays are its tensors, and the rest of the state
is JSON in its header. Reading one executes nothing and imports nothing. This room knows files, and nothing of training.
"""

from mlpug.checkpoints.files import copy, delete, remove_leftovers
from mlpug.checkpoints.reading import Description, describe, load, verify
from mlpug.checkpoints.tensors import RawTensor
from mlpug.checkpoints.writing import save

__all__ = ["Description", "RawTensor", "copy", "delete", "describe", "load", "remove_leftovers", "save", "verify"]
