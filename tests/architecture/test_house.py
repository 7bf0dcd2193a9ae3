"""The house holds: imports run one way, the wheel holds what it should, every public name shows how it is used."""

import importlib
import inspect
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ML_LIBRARIES = {"torch", "pytorch_lightning", "lightning", "torchmetrics", "keras", "tensorflow", "jax", "tensorboard"}


@pytest.fixture
def loaded_by(tmp_path):
    """Which ML libraries an import loads, in a fresh process where all of them can be imported."""
    for name in ML_LIBRARIES:
        if importlib.util.find_spec(name) is None:
            (tmp_path / f"{name}.py").write_text("")

    def loaded(module):
        code = f"import sys; sys.path.append({str(tmp_path)!r}); import {module}; print(*sys.modules)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280)
        return ML_LIBRARIES & set(run.stdout.split())

    return loaded


@pytest.mark.parametrize(
    "module", ["mlpug", "mlpug.trainers", "mlpug.callbacks", "mlpug.checkpoints", "mlpug.evaluation", "mlpug.testing"]
)
def test_the_core_loads_no_ml_library(loaded_by, module):
    assert loaded_by(module) == set()


def test_the_wheel_holds_the_core_and_its_adapters_and_nothing_else(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {
        "mlpug",
        "mlpug_lightning",
        "mlpug_keras",
    }
    assert {"mlpug/py.typed", "mlpug_lightning/py.typed", "mlpug/pytorch.py"} <= set(names)


PUBLIC_MODULES = ["callbacks", "checkpoints", "errors", "evaluation", "logging", "testing", "trainers"]


def public_names():
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(f"mlpug.{module_name}")
        for name in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, name)
            is_ours = inspect.getmodule(value) is not None and inspect.getmodule(value).__name__.startswith("mlpug.")
            if not name.startswith("_") and is_ours and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{module_name}.{name}", value


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public_names()])
def test_every_public_name_shows_how_it_is_used(name, value):
    if name == "evaluation.StreamingMetric" or inspect.getmodule(value).__name__ == "mlpug.adapter":
        assert inspect.getdoc(value)  # a protocol: there is nothing to call
    else:
        assert ">>>" in (inspect.getdoc(value) or "")


@pytest.mark.parametrize("module", [f"mlpug.{name}" for name in PUBLIC_MODULES] + ["mlpug.adapter"])
def test_every_public_method_says_what_it_does(module):
    silent = []
    for class_name, kind in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if kind.__module__.startswith("mlpug.") and not class_name.startswith("_"):
            own = [(name, value) for name, value in vars(kind).items() if not name.startswith("_")]
            silent += [f"{class_name}.{n}" for n, v in own if inspect.isfunction(v) and not inspect.getdoc(v)]
    assert silent == []
