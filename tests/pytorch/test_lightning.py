"""What the Lightning adapter promises beyond the contract."""

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from contract.backends.base import make_batches
from contract.backends.lightning import LightningBackend
from mlpug_lightning.batches import to_device, to_host
from pytorch_lightning.callbacks import Callback as NativeCallback
from pytorch_lightning.callbacks import ModelCheckpoint

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError


def start(backend, trainer, callbacks=(), batches=None, **arguments):
    manager = mlp.trainers.TrainingManager(
        trainer, make_batches() if batches is None else batches, callbacks=callbacks, **arguments
    )
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    return manager


class Outcome(mlp.callbacks.Callback):
    def on_training_ended(self, logs, **outcome):
        self.outcome = {name for name, value in outcome.items() if value}


def test_lightnings_own_counters_move(tmp_path):
    counters = []

    class Look(NativeCallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            counters.append((trainer.current_epoch, batch_idx, trainer.global_step, outputs["loss"].requires_grad))

    backend = LightningBackend()
    start(backend, backend.trainer(), [Look()], batches=make_batches((4, 4)), num_epochs=2)
    assert counters == [(0, 0, 1, False), (0, 1, 2, False), (1, 0, 3, False), (1, 1, 4, False)]


def test_a_native_checkpoint_callback_saves(tmp_path):
    backend = LightningBackend()
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    start(backend, backend.trainer(), [checkpoint])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=2.ckpt", "step=4.ckpt"]


@pytest.mark.parametrize(("hook", "completed_epochs"), [("on_train_batch_end", 0), ("on_train_epoch_end", 1)])
def test_a_native_callback_that_stops_training_stops_it_early(hook, completed_epochs):
    class Stop(NativeCallback):
        pass

    setattr(Stop, hook, lambda self, trainer, *_: setattr(trainer, "should_stop", True))
    completed, outcome = [], Outcome()

    class Count(mlp.callbacks.Callback):
        def on_epoch_completed(self, logs):
            completed.append(logs["epoch"])

    backend = LightningBackend()
    start(backend, backend.trainer(), [Stop(), Count(), outcome], num_epochs=3)
    assert len(completed) == completed_epochs
    assert outcome.outcome == {"stopped_early", "callback_calls_success"}


def test_updating_through_lightning_gives_the_same_weights_and_calls_the_optimization_hooks():
    calls = []

    class Look(NativeCallback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            calls.append(trainer.global_step)

    expected_weights, _ = LightningBackend().train_by_hand(make_batches(), num_epochs=2)
    backend = LightningBackend()
    start(backend, backend.trainer(), [Look()], num_epochs=2)
    assert calls == list(range(8))
    for name, weight in backend.weights().items():
        np.testing.assert_array_equal(weight, expected_weights[name])


def test_at_each_batch_lightning_calls_only_the_callback_that_listens_to_it():
    profiler = pl.profilers.SimpleProfiler()
    backend = LightningBackend()
    start(backend, backend.trainer(profiler=profiler), num_epochs=1)
    called = {what for what in profiler.recorded_durations if what.startswith("[Callback]")}
    assert "[Callback]First.on_train_end" in called
    assert not {what for what in called if "First.on_train_batch" in what}
    assert {what.rpartition(".")[2] for what in called if "mlpug-" in what} >= {
        "on_train_batch_start",
        "on_train_batch_end",
    }


def test_a_trainer_that_was_made_by_the_user_is_used_and_left_as_it_was():
    heard = []

    class Own(NativeCallback):
        def on_train_batch_end(self, *_):
            heard.append("own")

    own = Own()
    native = pl.Trainer(
        accelerator="cpu",
        callbacks=[own],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=3,
    )
    before = list(native.callbacks)
    backend = LightningBackend()
    trainer = mlp.trainers.DefaultTrainer(backend.optimizer, backend.model, lightning_trainer=native)
    manager = start(backend, trainer, num_epochs=2)
    assert heard == ["own"] * 6
    assert manager.logs["final_batch_step"] == 2
    assert native.callbacks == before
    assert native.limit_train_batches == 3


def test_eager_mode_false_compiles_the_training_model():
    compiled = []

    def compiler(graph_module, example_inputs):
        compiled.append(graph_module)
        return graph_module.forward

    expected_weights, _ = LightningBackend().train_by_hand(make_batches(), num_epochs=1)
    backend = LightningBackend()
    start(backend, backend.trainer(eager_mode=False, compile_kwargs={"backend": compiler, "dynamic": True}))
    assert len(compiled) == 1
    for name, weight in backend.weights().items():
        np.testing.assert_array_equal(weight, expected_weights[name])


def test_evaluating_leaves_a_part_that_the_user_froze_in_eval_mode():
    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.dropout, self.linear = torch.nn.BatchNorm1d(6), torch.nn.Dropout(), torch.nn.Linear(6, 1)

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            modes.append((self.norm.training, self.dropout.training, self.training))
            return self.linear(self.dropout(self.norm(batch_data))).mean()

    modes, model = [], TrainModel()
    model.norm.eval()
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.1), model, accelerator="cpu")
    trainer.set_training_model(model)
    loss = mlp.evaluation.MetricEvaluator(trainer=trainer).evaluate_batch(torch.randn(4, 6))["loss"]
    assert modes == [(False, False, False)]
    assert (model.norm.training, model.dropout.training, model.training) == (False, True, True)
    assert isinstance(loss, float)


def test_a_data_loader_with_workers_and_one_without_a_length_train():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(make_batches((4,) * 6))

    for dataset, arguments in (
        (torch.utils.data.DataLoader(make_batches((4,) * 6), batch_size=None, num_workers=2), {}),
        (torch.utils.data.DataLoader(Stream(), batch_size=None), {}),
        (torch.utils.data.DataLoader(Stream(), batch_size=None), {"num_batches_per_epoch": 3, "num_epochs": 2}),
    ):
        backend, by_hand = LightningBackend(), LightningBackend()
        backend.model[2].p = by_hand.model[2].p = 0.0  # a DataLoader draws from dropout's random numbers
        for x, y in make_batches((4,) * 6):
            by_hand.optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(by_hand.model(torch.from_numpy(x)).squeeze(1), torch.from_numpy(y))
            loss.backward()
            by_hand.optimizer.step()
        start(backend, backend.trainer(), batches=dataset, **arguments)
        for name, weight in backend.weights().items():
            np.testing.assert_array_equal(weight, by_hand.weights()[name])


def test_arrays_and_tensors_cross_to_the_device_and_back():
    read_only = np.arange(3.0)
    read_only.flags.writeable = False
    moved = to_device({"a": read_only, "b": (torch.ones(2), "text", np.array(["x"]))}, torch.device("cpu"))
    assert isinstance(moved["a"], torch.Tensor)
    assert isinstance(moved["b"][0], torch.Tensor)
    assert moved["b"][1] == "text"
    moved["a"] += 1
    assert read_only.tolist() == [0, 1, 2]
    back = to_host((torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor(2), torch.ones(1, requires_grad=True)))
    assert (back[0].tolist(), back[0].dtype, back[1], back[2].tolist()) == ([1.5], np.float32, 2, [1.0])


def a_model_and_optimizer():
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acelerator": "cpu"}, "takes 'acelerator'. Did you mean accelerator"),
        ({"max_epochs": 3}, r"doesn't take max_epochs: pass TrainingManager\(num_epochs=...\)"),
        ({"callbacks": []}, r"doesn't take callbacks: pass them to TrainingManager"),
        ({"compile_kwargs": {}}, "compile_kwargs is used with eager_mode=False only"),
        ({"lightning_trainer": "a string"}, "must be a pytorch_lightning.Trainer, not 'a string'"),
        ({"lightning_trainer": pl.Trainer(barebones=True), "devices": 2}, "pass them to that Trainer"),
        ({"lightning_trainer": lightning.pytorch.Trainer(barebones=True)}, "the two don't mix"),
    ],
    ids=str,
)
def test_arguments_that_cant_work_are_refused(arguments, message):
    model, optimizer = a_model_and_optimizer()
    with pytest.raises(ConfigurationError, match=message):
        mlp.trainers.DefaultTrainer(optimizer, model, **arguments)


def test_optimizers_that_cant_work_are_refused():
    with pytest.raises(ConfigurationError, match=r"'optimizer' has no parameters: give it model.parameters\(\)"):
        mlp.trainers.DefaultTrainer(torch.optim.SGD([{"params": []}], lr=0.1))
    with pytest.raises(ConfigurationError, match=r"must be a torch.optim.Optimizer, not 0.1"):
        mlp.trainers.DefaultTrainer({"sgd": 0.1})


def test_a_callback_of_the_other_lightning_is_refused():
    model, optimizer = a_model_and_optimizer()
    trainer = mlp.trainers.DefaultTrainer(optimizer, model, accelerator="cpu")
    with pytest.raises(ConfigurationError, match="Import it from pytorch_lightning, or import lightning"):
        mlp.trainers.TrainingManager(trainer, [1], callbacks=[lightning.pytorch.callbacks.Timer()])


def test_torchmetrics_stream_through_and_equal_a_count_by_hand():
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(n, 3)), random.integers(0, 3, size=n)) for n in (8, 8, 5)]

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3).double()

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            logits = self.linear(batch_data[0])
            return torch.nn.functional.cross_entropy(logits, batch_data[1]), len(logits), logits

    model = TrainModel()
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.0), model, accelerator="cpu")
    trainer.set_training_model(model)
    accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    metrics = {
        "streamed": mlp.evaluation.Metric(lambda batch, output: (output.auxiliary_results, _labels(batch)), accuracy),
        "joined": mlp.evaluation.Metric(
            lambda batch, output: (output.auxiliary_results, batch[1]),
            lambda inputs: (inputs[0].argmax(axis=1) == inputs[1]).mean(),
        ),
    }
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer, metrics=metrics)
    with torch.no_grad():
        hits = sum(int((model.linear(torch.from_numpy(x)).argmax(1).numpy() == y).sum()) for x, y in batches)
    evaluated = evaluator.evaluate_dataset(batches)
    assert evaluated["streamed"] == pytest.approx(hits / 21, rel=1e-7)  # torchmetrics counts in single precision
    assert evaluated["joined"] == hits / 21
    assert accuracy.update_count == 0
    in_chunks = mlp.evaluation.MetricEvaluator(trainer=trainer, metrics=metrics, batch_chunk_size=3)
    assert in_chunks.evaluate_dataset(batches)["streamed"] == evaluated["streamed"]


def _labels(batch):
    return torch.as_tensor(batch[1])


def test_what_lightning_works_with_is_at_hand():
    model = torch.nn.Linear(2, 1)

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            return self.model(batch_data).square().mean()

    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters()), model, accelerator="cpu")
    assert trainer.native.module is None
    manager = mlp.trainers.TrainingManager(trainer, [torch.ones(3, 2)] * 4)
    training_model = TrainModel()
    trainer.set_training_model(training_model)
    manager.start_training()
    native_trainer, module = trainer.native
    assert isinstance(native_trainer, pl.Trainer)
    assert native_trainer.global_step == 4
    assert isinstance(module, pl.LightningModule)
    assert module.training_model is training_model
