"""Ragged, sparse and text: what only models on TensorFlow take. from_keras trains, and goes on, as ``fit`` trains."""

from fit_table.checks import Holds
from fit_table.tf_kinds import TENSORFLOW_KINDS, TF_VALIDATIONS


class TestTensors(Holds):
    kinds, validations = TENSORFLOW_KINDS, {"not validated": TF_VALIDATIONS["not validated"]}
