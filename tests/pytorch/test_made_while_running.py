"""What a run changes in what its model and optimizers are made of goes on, or is refused when it is saved."""

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.errors import StateError

NUM_EPOCHS, BATCHES_PER_EPOCH, CHANGED_AFTER = 2, 4, (3, 6)  # batches
SAMPLES = torch.randn(BATCHES_PER_EPOCH * 8, 6, generator=torch.Generator().manual_seed(3))


class Module(pl.LightningModule):
    """Of two layers, of which the optimizer has one or both."""

    def __init__(self, lazy=False, only_head=False):
        super().__init__()
        self.body = torch.nn.LazyLinear(5) if lazy else torch.nn.Linear(6, 5)
        self.norm = torch.nn.LazyBatchNorm1d(affine=False) if lazy else torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 1)
        self.register_buffer("scale", torch.ones(1))
        self.only_head = only_head

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return (self.head(torch.tanh(self.norm(self.body(batch_data)))) ** 2).mean() * self.scale.sum()

    def training_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters() if self.only_head else self.parameters(), lr=0.02)


class Changes(mlp.callbacks.Callback):
    """Changes something after so many batches, or each time when training starts."""

    def __init__(self, what, at_start=False):
        self.what, self.at_start = what, at_start

    def change(self):
        self.what(self.module, optimizer_of(self.trainer))

    def on_training_start(self, logs):
        if self.at_start:
            self.change()

    def on_batch_training_completed(self, batch, logs):
        done = logs["current"]["global_iter"] + 1
        if not self.at_start and done in CHANGED_AFTER:
            self.change()


def train_model(module, callbacks, resume_from=None):
    trainer = mlp.trainers.DefaultTrainer(module.configure_optimizers(), {"body": module.body}, accelerator="cpu")
    return train(trainer, module, callbacks, resume_from)


def train_ported(module, callbacks, resume_from=None):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    return train(trainer, module, callbacks, resume_from)


def train(trainer, module, callbacks, resume_from):
    for callback in callbacks:
        callback.trainer, callback.module = trainer, module
    manager = mlp.trainers.TrainingManager(
        trainer, DataLoader(SAMPLES, batch_size=8), num_epochs=NUM_EPOCHS, callbacks=callbacks
    )
    trainer.set_training_model(module)
    manager.start_training(resume_from=resume_from)
    return {
        "weights": dict(module.state_dict()),
        "trained": {name: each.requires_grad for name, each in module.named_parameters()},
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer_of(trainer).param_groups],
        "states": list(optimizer_of(trainer).state_dict()["state"].values()),
    }


def optimizer_of(trainer):
    return trainer.native.trainer.optimizers[0]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def nothing(module, optimizer):
    pass


def freeze(module, optimizer):
    module.body.requires_grad_(False)


def swap_frozen(module, optimizer):
    module.body.requires_grad_(not module.body.weight.requires_grad)


def add_group(module, optimizer):
    if len(optimizer.param_groups) == 1:
        optimizer.add_param_group({"params": list(module.body.parameters()), "lr": 0.05})


def grow_group(module, optimizer):
    if len(optimizer.param_groups[0]["params"]) == 2:
        optimizer.param_groups[0]["params"] += [module.body.weight]


def drop_a_group(module, optimizer):
    del optimizer.param_groups[1:]


def prune_some(module, optimizer):
    prune.l1_unstructured(module.body, "weight", amount=3)
    prune.random_unstructured(module.head, "weight", amount=1)


def prune_globally(module, optimizer):
    where = [(module.body, "weight"), (module.head, "weight")]
    prune.global_unstructured(where, pruning_method=prune.L1Unstructured, amount=0.2)


def prune_for_a_while(module, optimizer):
    if prune.is_pruned(module.body):
        prune.remove(module.body, "weight")
    else:
        prune.l1_unstructured(module.body, "weight", amount=3)


def make_permanent(module, optimizer):
    if prune.is_pruned(module):
        prune.remove(module.body, "weight")


def make_a_buffer(module, optimizer):
    module.norm.register_buffer("seen", torch.full((2,), len(optimizer.state) + 1.0))
    module.scale = torch.cat([module.scale, module.scale])


def weights_normalized(module):
    parametrizations.weight_norm(module.body, "weight")


def pruned(module):
    prune.l1_unstructured(module.body, "weight", amount=4)


def frozen(module):
    module.body.requires_grad_(False)


def as_made(module):
    pass


KINDS = {  # what the script does, what the run does, and with which module
    "lazy": (as_made, nothing, {"lazy": True}),
    "lazy and frozen later": (as_made, freeze, {"lazy": True}),
    "freezes": (as_made, freeze, {}),
    "freezes and unfreezes": (as_made, swap_frozen, {}),
    "unfreezes": (frozen, swap_frozen, {}),
    "adds a group": (as_made, add_group, {"only_head": True}),
    "adds to a group": (as_made, grow_group, {"only_head": True}),
    "adds a lazy group": (as_made, add_group, {"only_head": True, "lazy": True}),
    "prunes": (as_made, prune_some, {}),
    "prunes globally": (as_made, prune_globally, {}),
    "prunes for a while": (as_made, prune_for_a_while, {}),
    "prunes what is pruned": (pruned, prune_some, {}),
    "prunes and freezes": (as_made, lambda *given: [prune_some(*given), freeze(*given)], {}),
    "makes pruning permanent": (pruned, make_permanent, {}),
    "makes and grows buffers": (as_made, make_a_buffer, {}),
    "parametrized by the script": (weights_normalized, freeze, {}),
    "pruned by the script": (pruned, nothing, {}),
}


IS_ADDED_LATER = pytest.mark.filterwarnings("ignore:No optimizer has:mlpug.errors.MlpugWarning")


def run(way, kind, callbacks, resume_from=None, at_start=False, seed=0):
    prepare, what, options = KINDS[kind]
    torch.manual_seed(seed)
    module = Module(**options)
    prepare(module)
    return way(module, [*callbacks, Changes(what, at_start)], resume_from)


@IS_ADDED_LATER
@pytest.mark.parametrize("way", [train_model, train_ported])
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on(tmp_path, way, kind):
    keeper = Keeper(tmp_path)
    expected = run(way, kind, [keeper])
    for number in CHANGED_AFTER:
        path = [path for path, batches in keeper.saved if batches == number][-1]
        again = Keeper(tmp_path / f"from{number}")
        again.folder.mkdir()
        assert same(run(way, kind, [again], path, seed=9), expected)
        if number == 6:  # what has been given back is kept in the next file too
            assert same(run(way, kind, [], again.saved[0][0], seed=7), expected)


@IS_ADDED_LATER
@pytest.mark.parametrize("way", [train_model, train_ported])
@pytest.mark.parametrize("kind", ["freezes", "adds a group", "prunes", "makes and grows buffers"])
def test_what_a_hook_does_whenever_training_starts_is_done_once(tmp_path, way, kind):
    keeper = Keeper(tmp_path)
    expected = run(way, kind, [keeper], at_start=True)
    for number in (2, 4):
        path = [path for path, batches in keeper.saved if batches == number][-1]
        assert same(run(way, kind, [], path, at_start=True, seed=9), expected)


@pytest.mark.parametrize("way", [train_model, train_ported])
def test_what_the_script_freezes_anew_is_the_scripts(tmp_path, way):
    keeper = Keeper(tmp_path)
    run(way, "prunes and freezes", [keeper])
    path = next(path for path, batches in keeper.saved if batches == 6)
    module = Module()
    module.head.requires_grad_(False)
    way(module, [], path)
    assert {name for name, each in module.named_parameters() if each.requires_grad} == {"norm.weight", "norm.bias"}


def test_a_file_of_the_first_version_says_what_is_frozen(tmp_path):
    keeper = Keeper(tmp_path)
    expected = run(train_ported, "freezes", [keeper])
    path = next(path for path, batches in keeper.saved if batches == 6)
    state = checkpoints.load(path)
    del state["made_while_running"]
    state["lightning"]["frozen"] = ["body.weight", "body.bias"]
    checkpoints.save(path, state)
    assert same(run(train_ported, "freezes", [], path, seed=9), expected)


def normalize(module, optimizer):
    parametrizations.weight_norm(module.body, "weight")


def add_a_layer(module, optimizer):
    module.more = torch.nn.Linear(2, 2)


def add_a_parameter(module, optimizer):
    module.body.register_parameter("more", torch.nn.Parameter(torch.ones(2)))


def take_one_away(module, optimizer):
    module.body.register_parameter("bias", None)


def reshape(module, optimizer):
    module.scale = None


def add_an_unknown_group(module, optimizer):
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(7))]})


REFUSED = {
    normalize: r"body[./]parametrizations\.weight\.original0.*[Mm]ake them before training",
    add_a_layer: r"more\.weight.*[Mm]ake them before training",
    add_a_parameter: r"body[./]more.*[Mm]ake them before training",
    take_one_away: r"body[./]bias.*[Mm]ake them before training",
    reshape: r"scale.*[Mm]ake them before training",
    add_an_unknown_group: r"of shapes \[\(7,\)\].*parameters of the model",
}


@pytest.mark.parametrize("way", [train_model, train_ported])
@pytest.mark.parametrize("what", REFUSED)
def test_what_no_script_can_make_again_is_refused_when_it_is_saved(tmp_path, way, what):
    torch.manual_seed(0)
    keeper = Keeper(tmp_path)
    with pytest.raises(StateError, match=REFUSED[what]):
        way(Module(), [keeper, Changes(what)])
    assert max(batches for _, batches in keeper.saved) == CHANGED_AFTER[0] - 1


class Backbone(Module):
    """Lightning's callback looks for a backbone by that name."""

    def __init__(self):
        super().__init__(only_head=True)
        self.backbone = self.body


def finetuned(callbacks, resume_from=None):
    finetuning = pl.callbacks.BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_ratio_lr=0.5)
    return train_ported(Backbone(), [*callbacks, finetuning], resume_from)


def test_lightnings_own_finetuning_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "NUM_EPOCHS", 3)
    torch.manual_seed(0)
    keeper = Keeper(tmp_path)
    expected = finetuned([keeper])
    assert len(expected["groups"]) == 2
    assert expected["trained"]["body.weight"]
    for number in (2, 4, 6, 8):  # frozen, about to join, in the epoch in which they joined, at its end
        torch.manual_seed(9)
        path = [path for path, batches in keeper.saved if batches == number][-1]
        assert same(finetuned([], path), expected)
