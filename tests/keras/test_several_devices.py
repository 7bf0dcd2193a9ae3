"""Keras on several devices: as_native is a guest there, and what mlpug would train on one of them is refused."""

import importlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from scripts import run_script

from mlpug.errors import ConfigurationError

SCRIPTS = pathlib.Path(__file__).parents[1] / "all" / "scripts"
ON_TENSORFLOW = keras.config.backend() == "tensorflow"
NUM_SAMPLES, BATCH_SIZE = 23, 4


@pytest.fixture
def mlp():
    return importlib.import_module(f"mlpug.{keras.config.backend()}")


def result_of(script, *arguments):
    done = run_script(SCRIPTS / script, *arguments, variables={"KERAS_BACKEND": keras.config.backend()})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def loss_by_hand(weights, x):
    kernel, bias, of_head, bias_of_head = (np.array(weight) for weight in weights)
    predictions = np.tanh(x @ kernel + bias) @ of_head + bias_of_head
    return float(((predictions - x.sum(axis=1, keepdims=True)) ** 2).mean())


if ON_TENSORFLOW:

    @pytest.mark.parametrize("kind", ["compiled", "eager", "scaled"])
    def test_as_native_under_a_mirrored_strategy_changes_nothing_and_knows_each_batch(tmp_path, kind):
        result = result_of("train_on_replicas.py", tmp_path, kind)
        assert result["beside"] == result["alone"]
        x = np.random.RandomState(0).rand(NUM_SAMPLES, 3).astype("float32")
        starts = list(range(0, NUM_SAMPLES, BATCH_SIZE)) * 2
        assert len(result["batches"]) == len(starts)
        for (loss, num_samples, did_update, rate), weights, start in zip(
            result["batches"], result["weights_before"], starts, strict=True
        ):
            batch = x[start : start + BATCH_SIZE]
            assert loss == pytest.approx(loss_by_hand(weights, batch), rel=1e-5)
            assert num_samples == len(batch)
            assert did_update is True
            assert rate == pytest.approx(0.1, rel=1e-7)
        assert result["saved_is_trained"]
        assert not result["left_behind"]
        assert np.isfinite(result["resumed_loss"])


def parts():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return keras.optimizers.SGD(0.1), model


CURE = r"on one device so far, and .*model.fit\(callbacks=\[mlp.callbacks.as_native\(...\)\]\)"


def test_a_set_distribution_is_refused_whenever_it_is_set(mlp, monkeypatch):
    optimizer, model = parts()
    trainer = mlp.trainers.DefaultTrainer(optimizer, model)
    ported = parts()[1]
    ported.compile("sgd", loss="mse")
    of_ported = mlp.trainers.DefaultTrainer.from_keras(ported)
    manager = mlp.trainers.TrainingManager(of_ported, (np.ones((4, 3)), np.ones((4, 1))))
    monkeypatch.setattr(keras.distribution, "distribution", Distributed)
    message = f"DefaultTrainer trains {CURE}".replace("and .*", "and keras.distribution is set to a Distributed.*")
    with pytest.raises(ConfigurationError, match=message):
        mlp.trainers.DefaultTrainer(*parts())
    with pytest.raises(ConfigurationError, match=message):
        trainer.set_training_model(model)
    message = message.replace("DefaultTrainer", "from_keras")
    with pytest.raises(ConfigurationError, match=message):
        mlp.trainers.DefaultTrainer.from_keras(ported)
    with pytest.raises(ConfigurationError, match=message):
        manager.start_training()


class Distributed:
    """In the place of a distribution."""


if ON_TENSORFLOW:

    def test_several_replicas_are_refused_wherever_they_come_from():
        refused = result_of("refuse_replicas.py")
        assert {name: kind for name, (kind, _) in refused.items()} == dict.fromkeys(
            [
                "scope",
                "model made in a scope",
                "layer made in a scope",
                "optimizer made in a scope",
                "training model made in a scope",
                "trained in a scope",
                "from_keras of a model made in a scope",
                "from_keras in a scope",
                "a scope of one replica",
            ],
            "ConfigurationError",
        )
        for name, (_, text) in refused.items():
            assert "on one device so far, and" in text, name
            assert ("in the scope of a MirroredStrategy" if name.endswith("one replica") else " 2 ") in text, name
            assert "model.fit(callbacks=[mlp.callbacks.as_native(...)])" in text, name

else:

    def test_devices_of_a_distribution_that_is_gone_are_refused_and_as_native_trains_on_them(tmp_path):
        result = result_of("train_on_devices.py", tmp_path)
        assert result["refused"][0] == "ConfigurationError"
        assert "the Sequential has weights on 2 of them" in result["refused"][1]
        assert result["beside"] == result["alone"]
        assert result["saved_is_trained"]
        assert result["num_devices"] == 2

    def test_two_processes_are_refused_and_as_native_says_that_it_saves_nothing(tmp_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, SCRIPTS / "train_in_processes.py", tmp_path, port]
        processes = [
            subprocess.Popen(
                [str(part) for part in (*command, rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"},
            )
            for rank in range(2)
        ]
        done = [process.communicate(timeout=200) for process in processes]
        results = [
            json.loads(line.removeprefix("RESULT "))
            for out, _ in done
            for line in out.splitlines()
            if line.startswith("RESULT ")
        ]
        assert len(results) == 2, done
        for result in results:
            assert "in one process so far, and this is one of 2 (jax.process_count())" in result["refused"]
            assert "mlpug.pytorch" in result["refused"]
            assert result["losses"] == results[0]["losses"] != []
        warned = [result["warned"] for result in results]
        assert warned[1] == []
        (text,) = warned[0]
        assert "as_native leaves CheckpointManager out of this run, and nothing is saved: Keras trains in 2" in text
        assert list(tmp_path.iterdir()) == []
