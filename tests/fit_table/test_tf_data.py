"""``tf.data``: from_keras trains, and goes on, as ``fit`` trains. It needs TensorFlow, on either backend."""

from fit_table.checks import Holds
from fit_table.tf_kinds import TF_KINDS, TF_VALIDATIONS


class TestTFData(Holds):
    kinds, validations = TF_KINDS, TF_VALIDATIONS
