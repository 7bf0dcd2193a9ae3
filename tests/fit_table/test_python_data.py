"""Arrays, PyDataset, generators and sparse matrices: from_keras trains, and goes on, as ``fit`` trains."""

from fit_table.checks import Holds
from fit_table.kinds import KINDS, VALIDATIONS


class TestPythonData(Holds):
    kinds, validations = KINDS, VALIDATIONS
