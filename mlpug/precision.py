"""How exactly is computed: the same words on every backend."""

from __future__ import annotations

from mlpug.errors import ConfigurationError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")


def chosen_precision(precision: str | None, use_mixed_precision: bool, has_gpu: bool) -> str | None:
    """The one that was asked for; None: none was.

    Args:
        precision: ``"32-true"``; ``"bf16-mixed"`` or ``"16-mixed"``: the weights are float32, and most is computed in
            16 bits, with a loss that is scaled dynamically for float16; ``"bf16-true"``: the weights too are bfloat16.
        use_mixed_precision: short for ``"16-mixed"`` on a GPU, and for ``"bf16-mixed"`` elsewhere.
        has_gpu: whether this run computes on one.

    Raises:
        ConfigurationError: another word, or both are given.

    >>> chosen_precision(None, use_mixed_precision=True, has_gpu=False)
    'bf16-mixed'
    """
    if use_mixed_precision:
        if precision is not None:
            raise ConfigurationError("use_mixed_precision chooses the precision: give it or precision, not both.")
        return "16-mixed" if has_gpu else "bf16-mixed"
    if precision is not None and precision not in PRECISIONS:
        known = ", ".join(f'"{each}"' for each in PRECISIONS)
        raise ConfigurationError(f"precision must be one of {known}, not {precision!r}.")
    return precision
