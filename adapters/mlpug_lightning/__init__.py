"""mlpug on PyTorch Lightning: Lightning runs the loop, on whatever device, strategy and precision it is told."""
