"""Why a number cannot be trusted, or cannot be had: one table for all estimators."""

from typing import Any

import numpy as np

# code -> (name, sentence). Codes are stable: they are what a traced result carries.
STATUS = {
    0: ("ok", "The estimate is usable."),
    1: (
        "one example",
        "Fewer than two examples have positive weight, so no spread can be seen; "
        "give at least two examples.",
    ),
    2: ("not finite", "A gradient holds NaN or inf; find the example whose norm is not finite."),
    3: (
        "below rounding",
        "S from squared norms cancels: the mean gradient dominates the spread and what is left is "
        "rounding. Measure funcbackprop.SquaredDeviations() or funcbackprop.Variance() instead.",
    ),
    4: (
        "gradient not above zero",
        "The unbiased |G|^2 is zero or negative: the mean gradient cannot be told from zero with "
        "these examples, so the noise scale has no upper bound. Use more examples.",
    ),
}


def names(status: Any) -> Any:
    """The names of codes, in the form of `status`: a `str` for one code (on the host)."""
    codes = np.asarray(status)
    found = np.array([STATUS[code][0] for code in codes.ravel().tolist()]).reshape(codes.shape)
    return found.item() if found.ndim == 0 else found


def sentences(status: Any) -> str:
    """What the codes mean, one line for each (on the host)."""
    return "\n".join(STATUS[code][1] for code in np.ravel(status).tolist())


def first_that_holds(*conditions: tuple[Any, str]) -> Any:
    """The code of the first condition that holds, entry by entry; 0 where none does. int32.

    Args:
      conditions: `(condition, name of a status)`, most important first.

    >>> print(first_that_holds((False, "one example"), (True, "not finite")))
    2
    """
    import jax.numpy as jnp

    codes = {name: code for code, (name, _) in STATUS.items()}
    found = jnp.select(
        [jnp.asarray(c) for c, _ in conditions], [codes[n] for _, n in conditions], 0
    )
    return found.astype(jnp.int32)
