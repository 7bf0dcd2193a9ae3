"""Fails where an ML library is installed: the core's suite has to pass where none is."""

import importlib.util
import sys

found = [name for name in ("torch", "keras", "tensorflow", "jax", "torchmetrics") if importlib.util.find_spec(name)]
if found:
    sys.exit(f"The core's suite must run where no ML library is installed, and here there is {', '.join(found)}.")
