"""What a batch that isn't finite must not change on PyTorch: buffers and optimizers, on each of Lightning's ways."""

import copy
import math
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from mlpug_lightning.kept_buffers import KeptBuffers
from mlpug_lightning.non_finite import are_finite, are_norms_finite, are_sums_finite

import mlpug.pytorch as mlp
from mlpug.errors import NonFiniteLoss


class Net(torch.nn.Module):
    """BatchNorm, whose statistics are written in place, and a buffer that is replaced at each step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.norm, self.out = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + x.sum()
        return self.out(self.norm(self.linear(x))).squeeze(1)


class TrainModel(torch.nn.Module):
    def __init__(self, net, loss_of=torch.nn.functional.mse_loss):
        super().__init__()
        self.net, self.loss_of = net, loss_of

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        return self.loss_of(self.net(x), y), len(x)


class ListensToBackward(pl.Callback):
    """A reason to update through Lightning."""

    def on_after_backward(self, trainer, pl_module):
        pass


class DidUpdate(mlp.callbacks.Callback):
    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(logs.at("training.batch.did_update_model"))


def make_batches(count, bad=()):
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)) for _ in range(count)]
    for index in bad:
        batches[index][0][2, 1] = math.nan
    return batches


def train(
    net, optimizers, batches, callbacks=(), on_non_finite="skip", loss_of=torch.nn.functional.mse_loss, **options
):
    trainer = mlp.trainers.DefaultTrainer(
        optimizers, net, on_non_finite=on_non_finite, **{"accelerator": "cpu", **options}
    )
    trainer.set_training_model(TrainModel(net, loss_of))
    manager = mlp.trainers.TrainingManager(trainer, batches, callbacks=callbacks)
    manager.start_training()
    return manager


def assert_equal(one, other):
    """States, bit by bit."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key]


@pytest.mark.parametrize("callbacks", [[], [ListensToBackward()]], ids=["directly", "through Lightning"])
def test_a_skipped_batch_leaves_buffers_and_moments_as_in_a_loop_without_it(callbacks):
    net, batches = Net(), make_batches(5, bad=(1, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    by_hand = copy.deepcopy(net)
    did_update = DidUpdate()
    train(net, optimizer, batches, [*callbacks, did_update])

    other = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for index in (0, 2, 3):
        x, y = batches[index]
        other.zero_grad()
        torch.nn.functional.mse_loss(by_hand(x), y).backward()
        other.step()
    assert did_update.seen == [True, False, True, True, False]
    assert_equal(net.state_dict(), by_hand.state_dict())
    assert_equal(optimizer.state_dict()["state"], other.state_dict()["state"])
    assert int(net.norm.num_batches_tracked) == 3


def test_of_several_optimizers_none_moves():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    optimizers = {
        "first": torch.optim.SGD(net.linear.parameters(), lr=0.1, momentum=0.9),
        "second": torch.optim.SGD([*net.norm.parameters(), *net.out.parameters()], lr=0.1),
    }
    # The loss and the first optimizer's gradients are finite, the second's aren't.

    def loss_of(predictions, y):
        return predictions.mean() + torch.sqrt(0 * net.out.bias).sum()

    manager = train(net, optimizers, make_batches(1), loss_of=loss_of)
    assert_equal(net.state_dict(), before)
    assert all(not optimizer.state for optimizer in optimizers.values())
    assert manager.logs.at("training_params.skipped_batches") == 1


def test_an_error_within_a_step_leaves_the_buffers_of_the_batch_before():
    net, batches = Net(), make_batches(3)
    kept = []

    def loss_of(predictions, y):
        if len(kept) == 2:
            raise RuntimeError("in the third batch, when BatchNorm has seen it")
        return torch.nn.functional.mse_loss(predictions, y)

    class Keep(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            kept.append(copy.deepcopy(net.state_dict()))

    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(net.parameters(), lr=0.1), net, accelerator="cpu")
    trainer.set_training_model(TrainModel(net, loss_of))
    with pytest.raises(RuntimeError, match="in the third batch"):
        mlp.trainers.TrainingManager(trainer, batches, callbacks=[Keep()]).start_training()
    assert int(net.norm.num_batches_tracked) == 3
    trainer.adapter.state()
    assert_equal(net.state_dict(), kept[1])


def test_kept_buffers_follow_buffers_whose_number_and_shape_change():
    net = Net()
    kept = KeptBuffers(net)
    kept.keep()
    net.seen = torch.ones(3)
    net.norm.running_var.fill_(7.0)
    kept.keep()
    net.seen.fill_(math.nan)
    net.norm.running_var.fill_(math.nan)
    net.register_buffer("late", torch.ones(2))
    kept.put_back()
    assert net.seen.tolist() == [1.0] * 3
    assert net.norm.running_var.tolist() == [7.0] * 8
    assert net.late.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("is_bad", [False, True])
def test_sparse_gradients_are_looked_at(is_bad):
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    before = embedding.weight.detach().clone()
    did_update = DidUpdate()
    batch = (torch.tensor([1, 1, 4]), torch.tensor(math.nan if is_bad else 2.0))
    train(
        embedding,
        torch.optim.SparseAdam(embedding.parameters()),
        [batch],
        [did_update],
        loss_of=_with_gradient,  # a loss of 0
    )
    assert did_update.seen == [not is_bad]
    assert torch.equal(embedding.weight, before) == is_bad


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors, gradient):
        ctx.save_for_backward(gradient)
        ctx.shape = vectors.shape
        return vectors.new_zeros(())

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient.expand(ctx.shape), None


def _with_gradient(vectors, gradient):
    return _WithGradient.apply(vectors, gradient)


def loss_scaler(initial_scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=initial_scale)
    return {"plugins": [pl.plugins.MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}, scaler


def test_a_loss_scalers_own_overflow_is_its_own_business():
    net, did_update = Net(), DidUpdate()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    options, scaler = loss_scaler(2.0**127)
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), make_batches(1), [did_update], "raise", **options)
    assert did_update.seen == [False]
    assert scaler.get_scale() == 2.0**126
    assert_equal({name: parameter.detach() for name, parameter in net.named_parameters()}, before)


def test_with_a_loss_scaler_the_loss_itself_is_looked_at():
    net, did_update = Net(), DidUpdate()
    options, scaler = loss_scaler(8.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(NonFiniteLoss):
        train(net, optimizer, make_batches(2, bad=(1,)), [did_update], "raise", **options)
    assert did_update.seen == [True]
    assert scaler.get_scale() == 8.0
    assert all(torch.isfinite(tensor).all() for tensor in net.state_dict().values())


def a_gradient(values, dtype=torch.float32):
    parameter = torch.nn.Parameter(torch.zeros(len(values), dtype=dtype))
    parameter.grad = torch.tensor(values, dtype=dtype)
    return [torch.optim.SGD([parameter])]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([3e38, 3e38], torch.float32, True),
        ([6e4, 6e4], torch.float16, True),
        ([3e38, 3e38], torch.bfloat16, True),
        ([math.inf, -math.inf], torch.float32, False),
        ([0.0, -math.inf], torch.float64, False),
        ([0.0, math.nan], torch.float16, False),
        ([complex(3e38, 3e38), 1e38], torch.complex64, True),
        ([complex(0.0, math.nan), 1.0], torch.complex64, False),
        ([], torch.float32, True),
    ],
)
def test_exactly_what_holds_nan_or_infinity_isnt_finite(values, dtype, expected):
    assert are_finite(torch.tensor(1.0), a_gradient(values, dtype)) is expected


@pytest.mark.parametrize("are_all_finite", [are_sums_finite, are_norms_finite])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_neither_first_look_misses_anything_or_finds_what_isnt_there(are_all_finite, bad, dtype):
    loss = torch.tensor(1.0, dtype=dtype)
    gradients = [torch.ones(3, 2, dtype=torch.float64), torch.ones(5, dtype=dtype), torch.ones(0, dtype=dtype)]
    assert are_all_finite(loss, gradients)
    assert are_all_finite(loss, [])
    gradients[1][3] = bad
    assert not are_all_finite(loss, gradients)
    assert not are_all_finite(torch.tensor(bad, dtype=dtype), gradients[:1])


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_isnt_finite_is_found_beside_finite_gradients(loss):
    assert not are_finite(torch.tensor(loss), a_gradient([1.0]))
    assert not are_finite(torch.tensor(loss), [])


TWO_PROCESSES = """
import pathlib, sys
import torch
import mlpug.pytorch as mlp

class TrainModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.count = 0
    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        self.count += 1
        is_bad = self.count == 2 and torch.distributed.get_rank() == 1
        # The gradients are finite everywhere: only the loss of one process tells.
        return self.linear(batch_data[0]).mean() + (float("nan") if is_bad else 0.0)

class Tell(mlp.callbacks.Callback):
    def on_batch_training_completed(self, batch, logs):
        weight = self.manager.trainer.model_components["model"].linear.weight.tolist()
        with pathlib.Path(sys.argv[1], str(self.manager.trainer.process.rank)).open("a") as file:
            print(logs.at("training.batch.did_update_model"), weight, file=file)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = TrainModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(
        optimizer, model, on_non_finite="skip", accelerator="cpu", strategy="ddp", devices=2
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(12, 2)), batch_size=2)
    manager = mlp.trainers.TrainingManager(trainer, loader, callbacks=[Tell()])
    trainer.set_training_model(model)
    manager.start_training()
"""


def test_processes_agree_though_the_loss_of_one_alone_isnt_finite(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    by_rank = [(tmp_path / rank).read_text().splitlines() for rank in "01"]
    assert by_rank[0] == by_rank[1]
    assert [line.split()[0] for line in by_rank[0]] == ["True", "False", "True"]
    weights = [line.split(" ", 1)[1] for line in by_rank[0]]
    assert weights[0] == weights[1] != weights[2]
