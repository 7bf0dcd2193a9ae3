"""torch's DataLoader: from_keras trains, and goes on, as ``fit`` trains. It needs torch, on either backend."""

from fit_table.checks import Holds
from fit_table.torch_kinds import TORCH_KINDS, TORCH_VALIDATIONS


class TestLoaders(Holds):
    kinds, validations = TORCH_KINDS, TORCH_VALIDATIONS
