"""On a CUDA GPU: training with Lightning is bit by bit what it is without mlpug, resumed too, and waits for nothing."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from gpu.accelerator import ACCELERATOR, check_accelerator, of_a_gpu
from gpu.ends import EndsAt, fail
from gpu.lightning_runs import (
    CLIPPED,
    DEVICE,
    NUM_BATCHES,
    NUM_EPOCHS,
    Project,
    assert_same,
    make_batches,
    make_net,
    native,
    on_device,
    ported,
    train,
    train_by_hand,
)
from gpu.no_waiting import NativeNoWaiting, Plain, ReadsLoss, accuracy, loader, set_mode, watching
from pytorch.native_runs import begin, differences
from pytorch.native_runs import native as fit

import mlpug.pytorch as mlp

check_accelerator("PyTorch", torch.cuda.is_available())

MIB = 2**20


def test_it_trains_as_a_loop_by_hand_on_the_same_device():
    run = train(make_batches())
    assert_same(run, train_by_hand(make_batches(), make_net()))
    assert run.model.computed_on == {DEVICE}


def test_chunks_make_the_same_update_as_the_whole_batch():
    batches = make_batches(torch.float64)
    run = train(batches, net=make_net(dropout=0).double(), batch_chunk_size=20)
    whole = train_by_hand(batches, make_net(dropout=0).double())
    for name, expected in whole.weights.items():
        torch.testing.assert_close(run.weights[name], expected, rtol=0, atol=1e-10)
    assert {state["step"].item() for state in run.optimizer.state.values()} == {NUM_BATCHES * NUM_EPOCHS}
    assert len(run.losses) == 3 * NUM_BATCHES * NUM_EPOCHS  # 48 samples are 20, 20 and 8


def test_a_module_trains_as_by_lightning_alone():
    trained = native()
    assert differences(trained, ported()) == []
    rates = [rate for (what, *_), _, rate in trained.module.seen if what == "train"]
    assert rates == pytest.approx([0.05 * 0.98**step for step in range(len(rates))])


def test_callbacks_in_a_native_run_change_nothing_and_leave_checkpoints(tmp_path):
    saves = mlp.callbacks.CheckpointManager(
        tmp_path, "run", batch_level=False, metric_to_monitor="validation.dataset.val_loss"
    )
    trained = native([mlp.callbacks.as_native(saves)])
    assert differences(native(), trained) == []
    kinds = ("best-model-checkpoint", "latest-model-checkpoint", "training-checkpoint")
    assert {path.name for path in tmp_path.iterdir()} == {f"run-{kind}.safetensors" for kind in kinds}
    latest = Project()
    mlp.load_model_checkpoint(tmp_path / "run-latest-model-checkpoint.safetensors").restore(model=latest)
    assert {name: tensor.tolist() for name, tensor in latest.state_dict().items()} == trained.outcome["weights"]


ENDS = {"stopped": mlp.trainers.TrainingManager.stop_training, "failed": fail}


def interrupted(run, folder, how, global_iter):
    """What is left of a run that ends after a batch: the training checkpoint."""
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None)
    with pytest.raises(ZeroDivisionError, match="on purpose") if how == "failed" else nullcontext():
        run(callbacks=[EndsAt(global_iter, ENDS[how]), saves])
    return folder / "run-training-checkpoint.safetensors"


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_goes_on_equals_the_one_that_never_stopped(how, tmp_path):
    path = interrupted(partial(train, make_batches()), tmp_path, how, NUM_BATCHES + 4)
    resumed = train(make_batches(), resume_from=path, seed=1000)
    assert len(resumed.losses) == NUM_BATCHES * NUM_EPOCHS - (NUM_BATCHES + 5)
    assert_same(resumed, train(make_batches()))


@pytest.mark.parametrize("how", ENDS)
def test_a_module_that_goes_on_equals_the_one_that_never_stopped(how, tmp_path):
    whole = native()
    resumed = ported(resume_from=interrupted(ported, tmp_path, how, 11))
    seen = resumed.module.seen
    assert 0 < len(seen) < len(whole.module.seen)
    assert seen == whole.module.seen[len(whole.module.seen) - len(seen) :]
    assert differences(whole, resumed) == ["seen"]


@pytest.fixture(autouse=True)
def may_wait_afterwards():
    yield
    set_mode("default")


PARTS = [{}, {"gradient_clip_norm": 0.1}, {"batch_chunk_size": 20}, {"gradient_accumulation_steps": 2}]


@pytest.mark.parametrize("options", PARTS, ids=str)
def test_a_batch_waits_for_nothing_in_a_new_run_and_in_one_that_goes_on(options, tmp_path):
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", batch_level=False, metric_to_monitor=None)
    batches = on_device(make_batches())
    train(batches, [*watching({"accuracy": accuracy()}), saves], num_epochs=1, **options)
    path = tmp_path / "run-training-checkpoint.safetensors"
    resumed = train(batches, watching({"accuracy": accuracy()}), path, **options)
    in_window = 5 * options.get("gradient_accumulation_steps", 1) * (3 if "batch_chunk_size" in options else 1)
    expected = np.average(resumed.losses[-in_window:], weights=resumed.model.sizes[-in_window:])
    assert resumed.manager.logs.at("training.sliding_window.loss") == pytest.approx(expected, rel=1e-5)


def test_a_callback_that_reads_a_value_does_wait():
    """What the tests here rely on."""
    writes_loss, *others = watching()
    run = train(on_device(make_batches()), [writes_loss, ReadsLoss(), *others])
    assert len(run.losses) == NUM_BATCHES * NUM_EPOCHS


def test_a_module_waits_for_nothing_by_lightning_alone_nor_with_mlpug():
    def losses_of(*callbacks):
        return torch.stack(fit(Plain, loader, callbacks=callbacks, **CLIPPED).module.losses).tolist()

    alone = losses_of(NativeNoWaiting())
    assert losses_of(NativeNoWaiting(), mlp.callbacks.as_native(mlp.callbacks.Callback())) == alone
    assert losses_of(mlp.callbacks.as_native(*watching())) == alone

    begin(seed=1)
    module = Plain()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, **CLIPPED)
    mlp.trainers.TrainingManager(trainer, loader(), num_epochs=3, callbacks=watching()).start_training()
    assert torch.stack(module.losses).tolist() == alone


class Waste(mlp.callbacks.Callback):
    """Leaves 512 MiB in PyTorch's cache at each batch; keeps what was reserved when it started.

    Not at the first one, in which cuBLAS takes its workspaces from what is there, and keeps them.
    """

    def __init__(self):
        self.reserved = []

    def on_batch_training_start(self, batch, logs):
        self.reserved.append(torch.cuda.memory_reserved())
        if len(self.reserved) > 1:
            torch.empty(512 * MIB, dtype=torch.uint8, device=DEVICE)


class Look(mlp.callbacks.Callback):
    """The same as LogCudaMemory before it, by CUDA itself."""

    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append((logs.at("training_params.memory.cuda:0").snapshot(), torch.cuda.mem_get_info(DEVICE)))


@of_a_gpu
def test_the_memory_that_is_logged_is_that_of_the_gpu_and_the_cache_is_emptied():
    torch.cuda.empty_cache()
    expected, waste, look = train(make_batches()), Waste(), Look()
    logging = [mlp.callbacks.LogCudaMemory(log_period=1), look]
    assert_same(train(make_batches(), [waste, *logging]), expected)
    assert min(waste.reserved[2:]) >= 512 * MIB
    assert len(look.seen) == NUM_BATCHES * NUM_EPOCHS
    for place, (shown, (free, total)) in enumerate(look.seen):
        assert shown["total"] == total == shown["free"] + shown["used"]
        assert abs(shown["free"] - free) < 64 * MIB
        assert (512 * MIB if place else 0) < shown["used"] <= shown["largest_used"] <= total

    emptied = Waste()
    assert_same(train(make_batches(), [emptied, mlp.callbacks.EmptyCudaCache(batch_period=1)]), expected)
    assert max(emptied.reserved) < 512 * MIB


class KeepUpdates(mlp.callbacks.Callback):
    def __init__(self):
        self.did_update = []

    def on_batch_training_completed(self, batch, logs):
        self.did_update.append(logs.at("training.batch.did_update_model"))


def test_mixed_precision_trains_and_goes_on_with_the_scale_of_the_loss(tmp_path):
    batches = [(*batch, torch.tensor(1e4 if place == 3 else 1.0)) for place, batch in enumerate(make_batches())]
    mixed = partial(train, batches, use_mixed_precision=True, gradient_clip_norm=1.0)
    keep = KeepUpdates()
    whole = mixed([keep])
    on_gpu = ACCELERATOR == "gpu"
    assert whole.model.computed_in == {torch.float16 if on_gpu else torch.bfloat16}
    assert {weight.dtype for weight in whole.weights.values()} == {torch.float32}
    skipped = [place for place, did_update in enumerate(keep.did_update) if not did_update]
    assert skipped == ([3, 3 + NUM_BATCHES, 3 + 2 * NUM_BATCHES] if on_gpu else [])
    assert np.mean(whole.losses[-NUM_BATCHES:]) < 0.8 * np.mean(whole.losses[:NUM_BATCHES])

    resumed = mixed(resume_from=interrupted(mixed, tmp_path, "stopped", NUM_BATCHES + 4), seed=1000)
    assert_same(resumed, whole)
    scales = [run.trainer.native.trainer.precision_plugin.state_dict() for run in (resumed, whole)]
    assert scales[0] == scales[1]
    assert not on_gpu or scales[0]["scale"] == 2.0**16 / 2 ** len(skipped)
