"""mlpug on PyTorch Lightning: Lightning runs the loop, on whatever device, strategy and precision it is told."""

import mlpug_lightning.host  # noqa: F401 - first: it says which package is missing
