"""The words for precision on PyTorch: what is computed in what, and steps that a loss scaler leaves out."""

from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug.callbacks import Callback, CheckpointManager, LRSchedulerWrapper
from mlpug.errors import ConfigurationError

COMPUTED_IN = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}
STORED_IN = {"32-true": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}


class TrainModel(torch.nn.Module):
    """Batches are (x, y, scale of the loss)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        self.computed_in = set()

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, scale = batch_data
        predictions = self.net(x)
        self.computed_in.add(predictions.dtype)
        return (predictions.float()[:, 0] - y.float()).square().mean() * scale, len(x)


class Keep(Callback):
    def __init__(self, model):
        self.model, self.did_update, self.rates, self.weights = model, [], [], []

    def on_batch_training_completed(self, batch, logs):
        self.did_update.append(logs.at("training.batch.did_update_model"))
        self.rates.append(logs.at("training_params.batch.lr"))
        self.weights.append(self.model.net[0].weight.detach().clone())


def scaled_batches(scales):
    torch.manual_seed(5)
    return [(torch.randn(6, 3), torch.randn(6), torch.tensor(float(scale))) for scale in scales]


def train(batches, callbacks=(), resume_from=None, num_epochs=1, **options):
    model = TrainModel()
    if "lightning_trainer" not in options:
        options["accelerator"] = "cpu"
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.05), model.net, **options)
    keep = Keep(model)
    manager = mlp.trainers.TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=[keep, *callbacks])
    trainer.set_training_model(model)
    manager.start_training(resume_from)
    return keep


def scaling_loss(initial_scale=2.0**15):
    """float16 on a processor: Lightning takes a scaler that it is given, though not the word."""
    scaler = torch.amp.GradScaler("cpu", init_scale=initial_scale)
    return {"plugins": [pl.plugins.MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}


@pytest.mark.parametrize("precision", COMPUTED_IN)
def test_it_is_computed_in_what_was_asked_for_and_weights_are_stored_so(precision):
    keep = train(scaled_batches([1, 1]), precision=precision)
    assert keep.model.computed_in == {COMPUTED_IN[precision]}
    assert {weight.dtype for weight in keep.model.net.parameters()} == {STORED_IN[precision]}
    assert keep.did_update == [True, True]
    assert not torch.equal(*keep.weights)


def test_float16_on_a_processor_is_an_error_and_not_something_else():
    with pytest.raises(
        ConfigurationError, match=r"precision='16-mixed' is not supported on CPUAccelerator.*'bf16-mixed'"
    ):
        train(scaled_batches([1]), precision="16-mixed")


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 4}, {"gradient_clip_norm": 1.0}], ids=str)
def test_an_overflow_skips_one_update_and_the_schedule_waits(options):
    schedule = LRSchedulerWrapper(lambda step: 1 / (1 + step))
    keep = train(scaled_batches([0.1, 0.1, 1e6, 0.1, 0.1]), [schedule], **scaling_loss(), **options)
    assert keep.did_update == [True, True, False, True, True]
    assert keep.rates == pytest.approx([0.05, 0.05 / 2, 0.05 / 3, 0.05 / 3, 0.05 / 4])
    moved = [not torch.equal(before, after) for before, after in pairwise(keep.weights)]
    assert moved == [True, False, True, True]
    assert keep.model.computed_in == {torch.float16}


def test_gradients_are_clipped_without_the_scale_of_the_loss():
    batches = scaled_batches([1, 1])
    without = train(batches, gradient_clip_norm=0.01)
    scaled = train(batches, gradient_clip_norm=0.01, **scaling_loss())
    moved = (without.weights[0] - without.weights[1]).norm()
    assert 0.9 * moved < (scaled.weights[0] - scaled.weights[1]).norm() < 1.1 * moved


def test_a_resumed_run_goes_on_with_the_scale_of_the_loss(tmp_path):
    batches = scaled_batches([1, 1e7, 1, 1])
    whole = train(batches, **scaling_loss())
    checkpoints = CheckpointManager(tmp_path, "first", metric_to_monitor=None, create_checkpoint_every=2)
    train(batches[:2], [checkpoints], **scaling_loss())
    path = tmp_path / "first-training-checkpoint.safetensors"
    resumed = train(batches[2:], resume_from=path, num_epochs=2, **scaling_loss(2.0))
    assert torch.equal(whole.weights[-1], resumed.weights[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "16"}, 'precision must be one of "32-true", "bf16-mixed", "16-mixed", "bf16-true", not \'16\''),
        ({"precision": "32-true", "use_mixed_precision": True}, "give it or precision, not both"),
    ],
)
def test_a_word_that_nobody_knows_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        train(scaled_batches([1]), **options)


def test_precision_goes_to_the_trainer_that_is_given():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigurationError, match="precision can't be given together with lightning_trainer"):
        train(scaled_batches([1]), lightning_trainer=trainer, precision="32-true")


def test_mixed_precision_on_a_processor_is_bfloat16():
    keep = train(scaled_batches([1]), accelerator="cpu", use_mixed_precision=True)
    assert keep.model.computed_in == {torch.bfloat16}


class TwoModels(torch.nn.Module):
    """Batches are (x, scales of the two losses [2])."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, scales = batch_data
        parts = {"first": self.first, "second": self.second}
        losses = [part(x).float().square().mean() * scale for part, scale in zip(parts.values(), scales, strict=True)]
        return dict(zip(parts, losses, strict=True)), len(x)


class CountSteps(pl.Callback):
    def __init__(self):
        self.global_steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.global_steps.append(trainer.global_step)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_norm": 0.1}], ids=["as they are", "clipped"])
def test_of_two_optimizers_one_may_overflow_and_the_other_steps_with_its_own_gradient(options):
    scales = [(1, 1), (1e7, 1), (1, 1)]
    torch.manual_seed(5)
    batches = [(torch.randn(4, 3), torch.tensor(pair)) for pair in scales]

    def weights_after(batches, **options):
        model, count = TwoModels(), CountSteps()
        optimizers = {
            name: torch.optim.SGD(part.parameters(), lr=0.05)
            for name, part in (("first", model.first), ("second", model.second))
        }
        trainer = mlp.trainers.DefaultTrainer(optimizers, model, accelerator="cpu", **options)
        manager = mlp.trainers.TrainingManager(trainer, batches, callbacks=[count])
        trainer.set_training_model(model)
        manager.start_training()
        assert count.global_steps == [1, 2, 3]  # one for each batch, however many optimizers there are
        return model.first.weight.detach(), model.second.weight.detach()

    first, second = weights_after(batches, **scaling_loss(2.0**8), **options)
    batches[1][1][0] = 0  # nothing for the first, as where its step is left out
    expected_first, expected_second = weights_after(batches, **options)
    torch.testing.assert_close(first, expected_first, rtol=0, atol=1e-3)
    torch.testing.assert_close(second, expected_second, rtol=0, atol=1e-3)
