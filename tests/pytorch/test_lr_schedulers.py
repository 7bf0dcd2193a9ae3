"""torch's own schedulers: the rates and weights of a loop by hand, and of a run that never stopped."""

import pytest
import torch
from torch.optim import lr_scheduler

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.errors import ConfigurationError

BATCHES = [torch.linspace(0, 1, 4) + number for number in range(3)]
NUM_EPOCHS = 4

BY_BATCH = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.9)], [4]
    ),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, mlp.scheduler_funcs.linear_with_warmup(3, 12)),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=10.0),
}
EACH = pytest.mark.parametrize("name", BY_BATCH)


def loss_of(weight, batch):
    return ((weight * batch) ** 2).mean()


class TrainModel(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return loss_of(self.weight[0], batch_data)


class Rates(mlp.callbacks.Callback):
    def __init__(self, folder=None):
        self.rates, self.folder, self.saved = [], folder, []

    def on_batch_training_completed(self, batch, logs):
        self.rates.append(logs.at("training_params.batch.lr"))

    def on_rest(self, logs, is_last):
        if self.folder is not None:
            self.saved.append(self.folder / f"{len(self.saved)}.safetensors")
            checkpoints.save(self.saved[-1], self.manager.get_state())


def new_weight():
    return torch.nn.ParameterList([torch.ones(1)])


def new_optimizer(weight):
    return torch.optim.SGD(weight.parameters(), lr=0.01, momentum=0.9)


def by_hand(make, batch_level):
    weight = new_weight()
    optimizer = new_optimizer(weight)
    scheduler, rates = make(optimizer), []
    goes_by_metric = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    for _ in range(NUM_EPOCHS):
        for batch in BATCHES:
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = loss_of(weight[0], batch)
            loss.backward()
            optimizer.step()
            if batch_level:
                scheduler.step(*[loss.item()] * goes_by_metric)
        if not batch_level:
            scheduler.step(*[loss.item()] * goes_by_metric)
    return rates, weight[0].item(), optimizer.param_groups[0]["lr"]


def train(make, batch_level=True, folder=None, resume_from=None):
    weight = new_weight()
    optimizer = new_optimizer(weight)
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=weight, accelerator="cpu")
    scheduler = make(optimizer)
    is_plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    metric = "training.batch.loss" if is_plateau else None
    seen = Rates(folder)
    callbacks = [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator(trainer=trainer)),
        mlp.callbacks.LRSchedulerWrapper(scheduler, batch_level=batch_level, metric_to_monitor=metric),
        seen,
    ]
    manager = mlp.trainers.TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS, callbacks=callbacks)
    trainer.set_training_model(TrainModel(weight))
    manager.start_training(resume_from)
    return seen, weight[0].item(), optimizer.param_groups[0]["lr"]


@EACH
@pytest.mark.parametrize("batch_level", [True, False])
def test_rates_and_weights_are_those_of_a_loop_by_hand(name, batch_level):
    seen, *others = train(BY_BATCH[name], batch_level)

    assert (seen.rates, *others) == by_hand(BY_BATCH[name], batch_level)
    assert len(set(seen.rates)) > 1 or not batch_level


@EACH
@pytest.mark.parametrize("batch_level", [True, False])
def test_a_resumed_scheduler_goes_on(name, batch_level, tmp_path):
    whole, *expected = train(BY_BATCH[name], batch_level, tmp_path)
    for path in whole.saved:
        resumed, *others = train(BY_BATCH[name], batch_level, resume_from=path)

        assert resumed.rates == whole.rates[len(whole.rates) - len(resumed.rates) :]
        assert others == expected


def test_parameter_groups_keep_their_ratios():
    first, second = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}])
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, accelerator="cpu")
    for rate in (0.0, 0.5):
        trainer.set_learning_rate(rate)

    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05], rel=1e-12)


def test_what_cant_work_is_refused_when_the_manager_is_made():
    weight = new_weight()
    trainer = mlp.trainers.DefaultTrainer(optimizers=new_optimizer(weight), accelerator="cpu")
    other = BY_BATCH["StepLR"](new_optimizer(new_weight()))
    plateau = BY_BATCH["ReduceLROnPlateau"](trainer.optimizers["optimizer"])
    wrapper = mlp.callbacks.LRSchedulerWrapper

    with pytest.raises(ConfigurationError, match="moves the rate of another optimizer"):
        mlp.trainers.TrainingManager(trainer, BATCHES, callbacks=[wrapper(other)])
    with pytest.raises(ConfigurationError, match="metric_to_monitor must be the path of a metric"):
        wrapper(plateau)
    with pytest.raises(ConfigurationError, match="needs the metric path 'validation"):
        mlp.trainers.TrainingManager(
            trainer, BATCHES, callbacks=[wrapper(plateau, metric_to_monitor="validation.dataset.loss")]
        )
