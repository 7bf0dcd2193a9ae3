"""What each row of the table is held to."""

from typing import ClassVar

import pytest
from fit_table.runs import by_fit, by_mlpug, differences, num_left, places, resumed

from mlpug.errors import MlpugWarning


class Holds:
    """A base of test classes: one for each place where a kind of data can be had."""

    pytestmark: ClassVar = [
        pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # how fit learns of it
        pytest.mark.filterwarnings("ignore:The training dataset ended after"),  # in epochs that have what is left
    ]

    def test_it_trains_as_fit_does(self, backend, row):
        assert by_fit(row).num_batches == sum(row.kind.lengths)
        assert differences(by_mlpug(backend.mlp, row), by_fit(row)) == []

    def test_it_goes_on_as_if_it_had_never_stopped(self, backend, row, place, tmp_path):
        epoch, step = places(row)[place]
        if row.kind.resumed_warns is not None:
            with pytest.warns(MlpugWarning, match=row.kind.resumed_warns):
                resumed(backend.mlp, row, tmp_path, epoch, step)
            return
        outcome = resumed(backend.mlp, row, tmp_path, epoch, step)
        assert differences(outcome, by_fit(row)) == []
        assert outcome.num_batches == num_left(row, epoch, step)
