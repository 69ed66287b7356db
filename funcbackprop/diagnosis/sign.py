"""What a question finds, and how severe it is."""

from typing import Any, NamedTuple

# From SEVERE on training fails, from SURE on it costs; below LEAST nothing is said.
SEVERE, SURE, LEAST = 1.0, 0.3, 0.1
# A gain or a progress below this is nothing.
NOTHING = 0.05


class Sign(NamedTuple):
    """What a rule found, before it is ranked; the fields mean what they do in `Finding`."""

    severity: float
    evidence: dict[str, Any]
    where: str | None = None
    step: int | None = None
