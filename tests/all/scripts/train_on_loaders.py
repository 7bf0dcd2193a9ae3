"""Train compiled models on torch's DataLoaders, by fit and by mlpug; print what differs as JSON."""

import importlib
import json
import pathlib
import sys
import tempfile

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
mlp = importlib.import_module(f"mlpug.{sys.argv[1]}")  # before Keras, which asks it on what to run
models = importlib.import_module("compiled_models")

MODELS = {"sequential": models.sequential, "unbuilt": models.unbuilt, "own train_step": models.own_train_step}
KINDS = {
    "in order": {"shuffle": False},
    "shuffled by its generator": {"shuffle": True, "seeded": True},
    "shuffled": {"shuffle": True},
    "by a worker": {"shuffle": True, "seeded": True, "num_workers": 1},
    # Its sampler draws once more where it is asked for its end.
    "of full batches": {"shuffle": True, "seeded": True, "drop_last": True},
    "of unknown length": {"is_stream": True},
}


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def loader(seeded=False, is_stream=False, **options):
    x, y = (torch.from_numpy(array) for array in models.arrays())
    generator = torch.Generator().manual_seed(3) if seeded else None
    samples = torch.utils.data.TensorDataset(x, y.long())
    samples = Stream([samples[index] for index in range(len(samples))]) if is_stream else samples
    return torch.utils.data.DataLoader(samples, batch_size=6, generator=generator, **options)


def differences(one, other):
    """Of what they logged, and of their weights."""
    shown = other.logs.seen[len(other.logs.seen) - len(one.logs.seen) :]
    of_logs = [repr(pair) for pair in zip(one.logs.seen, shown, strict=True) if pair[0] != pair[1]]
    weights = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    return of_logs + [f"{weight} != {expected}" for weight, expected in weights if (weight != expected).any()]


def ported(make, given, seed=1, **options):
    torch.manual_seed(seed)
    return models.PortedRun(mlp, make, lambda: loader(**given), num_epochs=3, **options)


def differs_from_fit(make, given, validates):
    torch.manual_seed(1)
    options = [{"validation_data": loader(**given)} if validates else {} for _ in range(2)]
    native = models.NativeRun(make, lambda: loader(**given), num_epochs=3, shuffle=False, **options[0])
    return differences(ported(make, given, **options[1]).start(), native)


def differs_when_resumed(given):
    with tempfile.TemporaryDirectory() as folder:
        whole = ported(models.noting_order, given, folder=pathlib.Path(folder), validation_data=loader(**given)).start()
        found = []
        counts = [count for _, count in whole.keeper.saved]
        in_epoch = counts[-1] // 3
        # Within an epoch, after its last batch, at its end, within a later one.
        for place in (
            1,
            *(index for index, count in enumerate(counts) if count == in_epoch),
            counts.index(in_epoch + 1),
        ):
            resumed = ported(models.noting_order, given, seed=77, validation_data=loader(**given))
            resumed.start(whole.keeper.saved[place][0])
            found += differences(resumed, whole)
        return found


request = json.load(sys.stdin)
fit = [differs_from_fit(MODELS[name], KINDS[kind], validates=name != "unbuilt") for kind, name in request["fit"]]
print(json.dumps({"fit": fit, "resumed": [differs_when_resumed(KINDS[kind]) for kind in request["resumed"]]}))
