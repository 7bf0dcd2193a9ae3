"""The Lightning adapter in the contract suite."""

import contextlib
import inspect

import pytorch_lightning as pl
import torch
from contract.backends.base import NUM_FEATURES

import mlpug.pytorch as mlp

_SEED = 7
_TO_HOST = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__array__", "__index__")


class LightningBackend:
    is_bit_equal = True
    rounding = 1e-12
    calls_python_at_each_batch = True
    random_generator = (
        lambda number: torch.Generator().manual_seed(number),
        lambda own: torch.randn((), generator=own).item(),
    )

    def __init__(self):
        self.model, self.optimizer = _model_and_optimizer()

    def trainer(self, **arguments):
        torch.manual_seed(_SEED)
        return mlp.trainers.DefaultTrainer(
            optimizers=self.optimizer, model_components=self.model, accelerator="cpu", **arguments
        )

    def training_model(self, spy=None, returns=None):
        return _TrainModel(self.model, spy, returns)

    def counting_regression(self, **arguments):
        model = _CountingRegression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = mlp.trainers.DefaultTrainer(optimizer, model.linear, accelerator="cpu", **arguments)
        linear = model.linear
        return trainer, model, lambda: torch.cat([linear.weight[0], linear.bias]).detach().numpy().copy()

    def two_regressions(self, returns, **arguments):
        model = _TwoRegressions(returns)
        optimizers = {
            "first": torch.optim.SGD(model.first.parameters(), lr=0.05),
            "second": torch.optim.SGD(model.second.parameters(), lr=0.1),
        }
        parts = {"first": model.first, "second": model.second}
        trainer = mlp.trainers.DefaultTrainer(optimizers, parts, accelerator="cpu", **arguments)
        return (
            trainer,
            model,
            lambda: [torch.cat([part.weight[0], part.bias]).detach().numpy().copy() for part in parts.values()],
        )

    def without_parameters(self):
        mlp.trainers.DefaultTrainer(optimizers=torch.optim.SGD([{"params": []}], lr=0.1), model_components=self.model)

    def weights(self):
        return {name: tensor.detach().numpy().copy() for name, tensor in self.model.state_dict().items()}

    def train_by_hand(self, batches, num_epochs):
        model, optimizer = _model_and_optimizer()
        model[2].p = self.model[2].p
        torch.manual_seed(_SEED)
        losses = []
        for _ in range(num_epochs):
            for x, y in batches:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(torch.from_numpy(x)).squeeze(1), torch.from_numpy(y))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}, losses

    def without_dropout(self):
        self.model[2].p = 0.0

    def square_root(self, loss):
        return torch.sqrt(loss)

    def native_callback(self, hear):
        return _Native(hear)

    def gradients_are_on(self):
        return torch.is_grad_enabled()

    def transfers_to_read_losses(self, count):
        return 1

    @contextlib.contextmanager
    def transfers(self):
        """Counts every way in which a value of the step's results can reach Python, also on a CPU."""
        seen, originals = [], {name: getattr(torch.Tensor, name) for name in _TO_HOST}

        def counting(name):
            def transfer(tensor, *arguments, **options):
                if not _is_within_the_optimizer():
                    seen.append(name)
                return originals[name](tensor, *arguments, **options)

            return transfer

        try:
            for name in _TO_HOST:
                setattr(torch.Tensor, name, counting(name))
            yield seen
        finally:
            for name, original in originals.items():
                setattr(torch.Tensor, name, original)


def _is_within_the_optimizer():
    """Adam reads its own step counter, which it keeps on the host."""
    return any("torch/optim" in frame.filename for frame in inspect.stack(context=0))


def _model_and_optimizer():
    """Dropout, so that another use of the random numbers than by hand would show."""
    torch.manual_seed(_SEED)
    model = torch.nn.Sequential(
        torch.nn.Linear(NUM_FEATURES, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
    ).double()
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


class _CountingRegression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(NUM_FEATURES, 1).double()
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, counts = batch_data
        predictions, total = self.linear(x)[:, 0], counts.sum()
        loss = (counts * (predictions - y).square()).sum() / total
        return loss, total, {"predictions": predictions, "mean": (counts * predictions).sum() / total.clamp(min=1)}


class _TwoRegressions(torch.nn.Module):
    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.first, self.second = torch.nn.Linear(NUM_FEATURES, 1).double(), torch.nn.Linear(NUM_FEATURES, 1).double()
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        losses = [(part(x)[:, 0] - target).square().mean() for part, target in ((self.first, y), (self.second, -2 * y))]
        return self.returns(*losses), len(y)


class _TrainModel(torch.nn.Module):
    def __init__(self, model, spy, returns):
        super().__init__()
        self.model, self.spy, self.returns = model, spy, returns

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        if self.spy is not None:
            self.spy(batch_data, evaluate_settings, inference_mode)
        x, y = _arrays(batch_data)
        predictions = self.model(x).squeeze(1)
        loss = torch.nn.functional.mse_loss(predictions, y)
        if evaluate_settings is not None:
            loss = loss * evaluate_settings["scale"]
        results = loss, len(y), predictions
        return results if self.returns is None else self.returns(*results)


def _arrays(batch_data):
    """x and y from any nesting that the tests use."""
    if isinstance(batch_data, dict):
        return batch_data["x"], batch_data["nested"]["y"]
    if hasattr(batch_data, "x"):
        return batch_data.x, batch_data.y
    return batch_data


class _Native(pl.Callback):
    def __init__(self, hear):
        self.hear = hear

    def on_train_start(self, trainer, pl_module):
        self.hear("training_started")

    def on_train_epoch_start(self, trainer, pl_module):
        self.hear("epoch_started")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.hear("batch_started")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.hear("batch_ended")

    def on_train_epoch_end(self, trainer, pl_module):
        self.hear("epoch_ended")
