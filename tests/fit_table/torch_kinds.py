"""torch's DataLoader in each form that ``fit`` takes."""

import multiprocessing

import torch
from compiled_models import BATCH_SIZE, arrays
from fit_table.kinds import ALWAYS, AND_REST, DENSE, IN_ORDER
from fit_table.runs import Kind
from fit_table.torch_data import Noisy, Stream

# Forked from the process of the tests, in which the libraries' threads run, they would hang now and then.
multiprocessing.set_forkserver_preload(["torch", "fit_table.torch_data"])
WORKERS = {"multiprocessing_context": "forkserver"}


def loader(kind=torch.utils.data.TensorDataset, seed=None, **options):
    """Makes what makes a loader; with a seed, one that has a generator of its own."""

    def make():
        x, y = arrays()
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        samples = kind(torch.from_numpy(x), torch.from_numpy(y).long())
        return torch.utils.data.DataLoader(samples, batch_size=BATCH_SIZE, generator=generator, **options)

    return make


TORCH_KINDS = {
    "DataLoader in order": Kind(loader(), DENSE, IN_ORDER),
    "DataLoader, shuffled": Kind(loader(shuffle=True), DENSE, IN_ORDER),
    "DataLoader, shuffled by its generator": Kind(loader(shuffle=True, seed=3), DENSE, IN_ORDER),
    "DataLoader, 1 worker": Kind(loader(shuffle=True, seed=3, num_workers=1, **WORKERS), DENSE, IN_ORDER),
    "DataLoader, 2 workers": Kind(loader(shuffle=True, num_workers=2, **WORKERS), DENSE, IN_ORDER),
    "DataLoader, full batches": Kind(loader(shuffle=True, seed=3, drop_last=True), DENSE, IN_ORDER, lengths=ALWAYS),
    "DataLoader, noisy, 2 workers": Kind(loader(Noisy, shuffle=True, num_workers=2, **WORKERS), DENSE, IN_ORDER),
    "DataLoader, noisy": Kind(loader(Noisy, shuffle=True), DENSE, IN_ORDER),
    "DataLoader, 3 steps": Kind(loader(shuffle=True, seed=3), DENSE, IN_ORDER, steps=3, lengths=AND_REST),
    "DataLoader of a stream": Kind(loader(Stream), DENSE, IN_ORDER),
    "DataLoader of a stream, 2 workers": Kind(loader(Stream, num_workers=2, **WORKERS), DENSE, IN_ORDER),
}
TORCH_VALIDATIONS = {
    "not validated": dict,
    "by a DataLoader": lambda: {"validation_data": loader()()},
    "by a shuffled DataLoader": lambda: {"validation_data": loader(shuffle=True)()},
    "by a DataLoader with a generator": lambda: {"validation_data": loader(shuffle=True, seed=7)()},
    "by a DataLoader, each second epoch": lambda: {
        "validation_data": loader(shuffle=True, seed=7)(),
        "validation_freq": 2,
    },
}
