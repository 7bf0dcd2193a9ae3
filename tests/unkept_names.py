"""What mlpug's warning of what isn't kept names, for tests of it."""

import re
import warnings
from contextlib import contextmanager

from mlpug.errors import MlpugWarning


@contextmanager
def named():
    """A list of the names in each warning, which is complete behind the block."""
    names = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield names
    for each in caught:
        if issubclass(each.category, MlpugWarning):
            found = re.search(r"don't have them: (.*)\. A resumed run", str(each.message))
            assert found is not None, each.message
            of_cures = re.sub(r" \(kept by [^)]*\)+", "", found[1])
            names.append(sorted(re.split(r"[,;] ", of_cures)))
