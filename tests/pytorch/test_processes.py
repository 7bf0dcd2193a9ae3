"""What shows only in a process of its own: what is printed, Ctrl-C, several processes, the other Lightning."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=280, cwd=ROOT, **options
    )


def test_hello_world_prints_what_mlpug_says_and_nothing_else():
    hello = run("examples/hello_world_pytorch.py", "--epochs", "2")
    assert hello.returncode == 0, hello.stderr
    assert hello.stderr == ""
    expected = """
        #{79}
        Epoch 1/1\tREADY - Duration 0:00:\\d\\d
        Moving average:
        training       : loss          \\d\\.\\d{3}\\.

        Computed over dataset:
        validation     : loss          \\d\\.\\d{3}\\.



        INFO    : TrainingManager::start_training : Training completed\\. All good! ❤️

        real label = \\d, predicted label = \\d
    """
    assert re.search(textwrap.dedent(expected).strip() + r"\n$", hello.stdout), hello.stdout
    known = (
        r"#{79}|Epoch .*|Batch:|Moving average:|Computed over dataset:|(training|validation) .*|INFO .*|real label.*|"
    )
    assert [line for line in hello.stdout.splitlines() if not re.fullmatch(known, line)] == []


SLOW = """
import sys, time
import torch
import mlpug.pytorch as mlp

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 400
    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.ones(2)

class TrainModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.calls = 0
    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        self.calls += 1
        time.sleep(2 if self.calls == 4 else 0.02)  # long enough to be interrupted in
        return self.linear(batch_data).mean()

class Tell(mlp.callbacks.Callback):
    def on_batch_training_start(self, batch, logs):
        print("start", logs["current"]["batch_step"], flush=True)
    def on_batch_training_completed(self, batch, logs):
        print("completed", logs["current"]["batch_step"], flush=True)
    def on_training_ended(self, logs, interrupted, stopped_on_error, **outcome):
        print("ended", interrupted, stopped_on_error, flush=True)

if __name__ == "__main__":
    model = TrainModel()
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.1), model, accelerator="cpu")
    loader = torch.utils.data.DataLoader(Slow(), batch_size=2, num_workers=2)
    manager = mlp.trainers.TrainingManager(trainer, loader, callbacks=[Tell()])
    trainer.set_training_model(model)
    manager.start_training()
    print("the script goes on", flush=True)
"""


@pytest.fixture
def slow_training(tmp_path):
    """A training process with data-loading processes of its own, in its own process group as in a terminal."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()


def press_ctrl_c(process):
    """A terminal sends it to the data-loading processes too."""
    os.killpg(process.pid, signal.SIGINT)


def read_until(process, text):
    for line in process.stdout:
        if line.strip() == text:
            return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def test_ctrl_c_lets_the_batch_finish_and_the_script_go_on(slow_training):
    read_until(slow_training, "start 3")
    press_ctrl_c(slow_training)
    output, errors = slow_training.communicate(timeout=60)
    lines = output.splitlines()
    assert "WARNING : TrainingManager::start_training : Interrupted: training stops after this batch." in output
    assert lines[-1] == "the script goes on"
    assert "ended True False" in lines
    assert [line for line in lines if line.startswith("start ")] == []
    assert [line for line in lines if line.startswith("completed ")] == ["completed 3"]
    assert (slow_training.returncode, errors) == (0, "")


def test_a_second_ctrl_c_stops_at_once(slow_training):
    read_until(slow_training, "start 3")
    press_ctrl_c(slow_training)
    read_until(
        slow_training,
        "WARNING : TrainingManager::start_training : Interrupted: training stops after this batch."
        " Press Ctrl-C again to stop at once.",
    )
    press_ctrl_c(slow_training)
    output, errors = slow_training.communicate(timeout=60)
    assert slow_training.returncode != 0
    assert "the script goes on" not in output
    assert "ended True False" in output
    assert "KeyboardInterrupt" in errors


TWO_PROCESSES = """
import atexit
import sys
import torch
import mlpug.pytorch as mlp

def tell_whether_in_a_group():  # before Python ends, after what was registered later
    print(f"in a group: {torch.distributed.is_initialized()}")

atexit.register(tell_whether_in_a_group)

class Keep(mlp.callbacks.Callback):
    def __init__(self):
        self.batches = []
    def on_batch_training_start(self, batch, logs):
        self.batches.append(batch)

class TrainModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)
    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return self.linear(batch_data).square().mean()

if __name__ == "__main__":
    torch.manual_seed(0)
    data = torch.randn(48, 3)
    model = TrainModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(optimizer, model, accelerator="cpu", devices=2, strategy="ddp")
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    callbacks = [
        keep := Keep(),
        mlp.callbacks.TestMetricsLogger([data], "validation", evaluator, batch_level=False),
        mlp.callbacks.LogProgress(set_names=["validation"]),
    ]
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    manager = mlp.trainers.TrainingManager(trainer, loader, num_epochs=2, callbacks=callbacks)
    trainer.set_training_model(model)
    manager.start_training()
    torch.save((trainer.process.world_size, manager.logs["final_batch_step"], keep.batches, model.state_dict()),
               f"{sys.argv[1]}/{trainer.process.rank}.pt")
"""


def test_two_processes_train_on_halves_of_the_data_as_one_would_on_both_together(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    trained = run(tmp_path / "two.py", tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("READY") == 2  # epochs; only the first process prints
    assert trained.stdout.count("Training completed") == 1
    assert trained.stdout.count("in a group: False") == 2  # else the threads of gloo may end the process by a signal
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first[:2] == second[:2] == (2, 5)
    torch.manual_seed(0)
    data = torch.randn(48, 3)
    linear = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    for halves in zip(first[2], second[2], strict=True):
        optimizer.zero_grad()
        linear(torch.cat(halves)).square().mean().backward()
        optimizer.step()
    seen = torch.cat([*first[2][:6], *second[2][:6]])
    assert torch.equal(seen.sort(dim=0).values, data.sort(dim=0).values)  # each sample once an epoch
    for name, weight in linear.state_dict().items():
        assert torch.equal(first[3][f"linear.{name}"], second[3][f"linear.{name}"])
        # the mean of two means of 4 adds up in another order than the mean of 8
        torch.testing.assert_close(first[3][f"linear.{name}"], weight, rtol=1e-5, atol=1e-7)


def test_the_lightning_that_the_script_has_loaded_is_used():
    code = """
        import lightning.pytorch as pl
        import mlpug.pytorch as mlp
        import torch, sys

        class Count(pl.Callback):
            batches = 0
            def on_train_batch_end(self, *_):
                Count.batches += 1

        class TrainModel(torch.nn.Linear):
            def forward(self, batch_data, evaluate_settings, inference_mode=None):
                return super().forward(batch_data).mean()

        model = TrainModel(2, 1)
        trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters()), model, accelerator="cpu")
        manager = mlp.trainers.TrainingManager(trainer, [torch.ones(3, 2)] * 4, callbacks=[Count()])
        trainer.set_training_model(model)
        manager.start_training()
        print(Count.batches, "pytorch_lightning" in sys.modules)
    """
    other = run("-c", textwrap.dedent(code))
    assert (other.returncode, other.stderr) == (0, "")
    assert other.stdout.splitlines()[-1] == "4 False"


@pytest.mark.parametrize("missing", ["torch", "pytorch_lightning"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import mlpug.pytorch"
    failed = run("-c", code)
    assert failed.returncode == 1
    assert "mlpug.errors.MissingDependencyError: mlpug.pytorch needs PyTorch and PyTorch Lightning" in failed.stderr
    assert "pip install 'mlpug[pytorch]'" in failed.stderr


def test_importing_the_backend_loads_no_other_ml_library(tmp_path):
    others = ("keras", "tensorflow", "jax")
    for name in others:
        (tmp_path / f"{name}.py").write_text("")  # so that it could be loaded here
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import mlpug.pytorch; print({others} & sys.modules.keys())"
    loaded = run("-c", code.replace(f"{others} &", f"set({others}) &"))
    assert (loaded.stdout.strip(), loaded.returncode) == ("set()", 0)


ACCUMULATING = """
import sys
import torch
import pytorch_lightning as pl
import mlpug.pytorch as mlp

reductions = []

def counting(state, bucket):
    reductions.append(bucket.buffer().numel())
    return torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook(state, bucket)

class Count(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        trainer.strategy.model.register_comm_hook(None, counting)

class Keep(mlp.callbacks.Callback):
    def __init__(self):
        self.batches = []
    def on_batch_training_start(self, batch, logs):
        self.batches.append(batch)

class TrainModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 1).double(), torch.nn.Linear(3, 1).double()
    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, counted = batch_data[:, :3], batch_data[:, 3]
        num_samples = counted.sum()
        losses = {
            name: (part(x)[:, 0].square() * counted).sum() / num_samples  # NaN where nothing counts
            for name, part in (("first", self.first), ("second", self.second))
        }
        return (losses if sys.argv[2] == "several" else sum(losses.values())), num_samples

if __name__ == "__main__":
    torch.manual_seed(0)
    data = torch.randn(44, 4, dtype=torch.float64)
    data[:, 3] = (data[:, 3] > 0.3).double()
    data[::2][4:8, 3] = 0.0  # the first process's second batch: a batch in which nothing of one process counts
    model = TrainModel()
    optimizers = {
        name: torch.optim.SGD(part.parameters(), lr=0.1)
        for name, part in (("first", model.first), ("second", model.second))
    }
    options = {"batch_chunk_size": 3, "gradient_accumulation_steps": 2} if sys.argv[3] == "chunks" else {}
    trainer = mlp.trainers.DefaultTrainer(
        optimizers, model, accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=False, **options
    )
    # A sampler of Lightning's would shuffle: each process takes every second sample.
    rank = int(__import__("os").environ.get("LOCAL_RANK", 0))
    loader = torch.utils.data.DataLoader(data[rank::2], batch_size=4)
    manager = mlp.trainers.TrainingManager(trainer, loader, callbacks=[keep := Keep(), Count()])
    trainer.set_training_model(model)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    manager.start_training()
    torch.save((keep.batches, len(reductions), start, model.state_dict()), f"{sys.argv[1]}/{trainer.process.rank}.pt")
"""


@pytest.mark.parametrize("losses", ["one", "several"])
@pytest.mark.parametrize("cut", ["whole", "chunks"])
def test_processes_weigh_their_samples_as_one_batch_of_all_would_and_reduce_once_a_batch(tmp_path, losses, cut):
    (tmp_path / "accumulating.py").write_text(ACCUMULATING)
    trained = run(tmp_path / "accumulating.py", tmp_path, losses, cut)
    assert trained.returncode == 0, trained.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    sizes = [len(batch) for batch in first[0]]
    assert sizes == ([8, 8, 6] if cut == "chunks" else [4, 4, 4, 4, 4, 2])
    assert first[1] == (len(sizes) if losses == "one" else 0)  # several losses are reduced by mlpug itself
    weights = {name: weight.clone().requires_grad_() for name, weight in first[2].items()}
    for halves in zip(first[0], second[0], strict=True):
        batch = torch.cat(halves)
        x = batch[batch[:, 3] > 0, :3]
        errors = [x @ weights[f"{part}.weight"][0] + weights[f"{part}.bias"] for part in ("first", "second")]
        sum(error.square().mean() for error in errors).backward()
        with torch.no_grad():
            for weight in weights.values():
                weight -= 0.1 * weight.grad
                weight.grad = None
    for name, weight in weights.items():
        assert torch.equal(first[3][name], second[3][name])
        torch.testing.assert_close(first[3][name], weight.detach(), rtol=1e-10, atol=1e-12)
