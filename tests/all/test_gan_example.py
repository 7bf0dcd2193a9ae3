"""The GAN: two optimizers with a loss each, the same training code on every backend."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "gan"

SCRIPT = """
import importlib, json, sys
import numpy as np
from training import load_batches, train

backend, options, is_joined = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "joined"
mlp = importlib.import_module(f"mlpug.{backend}")
gan = importlib.import_module("gan_on_pytorch" if backend == "pytorch" else "gan_on_keras").make_gan()
batches = load_batches(16)[:5]
if is_joined:
    pairs = [batches[:2], batches[2:4], batches[4:]]
    batches = [tuple(np.concatenate(arrays) for arrays in zip(*pair)) for pair in pairs]
before = gan.weights()
logs = train(mlp, gan, batches, num_epochs=2, **options)
moved = [float(abs(new - old).max()) for new, old in zip(gan.weights(), before)]
print(json.dumps({
    "weights": [weight.tolist() for weight in gan.weights()],
    "moved": moved,
    "loss": logs.at("training.batch.loss"),
    "norm": logs.at("training.batch.gradient_norm"),
    "lr": logs.at("training_params.batch.lr"),
    "batches": logs["current"]["global_iter"] + 1,
}))
"""


def run(backend, is_joined=False, **options):
    command = [sys.executable, "-c", SCRIPT, backend, json.dumps(options), "joined" if is_joined else "as they are"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=EXAMPLE)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["pytorch", "tensorflow", "jax"])
def test_two_batches_that_make_one_give_what_one_of_both_gives(name):
    options = {"gradient_clip_norm": 0.5}
    joined = run(name, is_joined=True, **options)
    accumulated = run(name, gradient_accumulation_steps=2, batch_chunk_size=5, **options)
    assert joined["batches"] == accumulated["batches"] == 6  # the last of each epoch is one batch of the dataset alone
    assert all(distance > 1e-4 for distance in joined["moved"])
    for one, other in zip(joined["weights"], accumulated["weights"], strict=True):
        # Of how far the weights have moved: Adam divides gradients by their size, and so magnifies what was rounded.
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * max(joined["moved"]))
    for what in ("loss", "norm"):
        assert list(joined[what]) == list(accumulated[what]) == ["generator", "discriminator"]
        for optimizer, value in joined[what].items():
            assert accumulated[what][optimizer] == pytest.approx(value, rel=1e-4)
    assert list(joined["lr"]) == ["generator", "discriminator"]
    assert list(joined["lr"].values()) == pytest.approx([1e-3, 1e-3])


@pytest.mark.parametrize("name", ["pytorch", "tensorflow", "jax"])
def test_it_draws_something(name):
    ran = subprocess.run(
        [sys.executable, "training.py", name, "--epochs", "1", "--accumulate", "4", "--precision", "bf16-mixed"],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=EXAMPLE,
    )
    assert ran.returncode == 0, ran.stderr
    drawn = ran.stdout.splitlines()[-8:]
    assert all(len(row) == 16 and set(row) <= set(" .:-=+*#%@") for row in drawn)
    assert len(set("".join(drawn))) > 1
