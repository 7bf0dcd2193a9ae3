"""The rows of the table: kinds of data, models that are built and not, kinds of validation."""

import itertools

from fit_table.kinds import SPLIT
from fit_table.runs import Row, places

__all__ = ["all_rows", "places", "sample"]


def all_rows(kinds, validations):
    """Each with each."""
    for (name, kind), is_built in itertools.product(kinds.items(), (True, False)):
        for validation in [*validations, *_split(name)]:
            yield _row(name, kind, is_built, validation, validations)


def sample(kinds, validations):
    """Each kind of data once, each time with the next kind of validation, then those that are left."""
    names = list(validations)
    for number, (name, kind) in enumerate(kinds.items()):
        validation = names[(number + number // len(names)) % len(names)]
        yield _row(name, kind, number % 4 < 2, validation, validations)
    name = next(iter(kinds))
    for number, validation in enumerate([*names[len(kinds) :], *_split(name)]):
        yield _row(name, kinds[name], number % 4 < 2, validation, validations)


def _row(name, kind, is_built, validation, validations):
    title = f"{name} | {'built' if is_built else 'not built'} | {validation}"
    return Row(title, kind, is_built, {**validations, **SPLIT}[validation])


def _split(name):
    return SPLIT if name.startswith("arrays") else ()
