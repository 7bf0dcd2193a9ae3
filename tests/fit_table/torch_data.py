"""Datasets of torch's, in a module of their own that imports nothing else: worker processes start with it."""

import torch


class Stream(torch.utils.data.IterableDataset):
    """Samples without a length; each worker has a part of them."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return zip(self.x[first::step], self.y[first::step], strict=True)


class Noisy(torch.utils.data.TensorDataset):
    """Draws a number for each sample."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.rand(()), y
