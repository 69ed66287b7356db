"""What a question finds, and how severe it is."""

from typing import Any, NamedTuple

# From SEVERE on training fails, from SURE on it costs; below LEAST nothing is said.
SEVERE, SURE, LEAST = 1.0, 0.3, 0.1
# A gain or a progress below this is nothing.
NOTHING = 0.05


class Sign(NamedTuple):
    """What a question found: severity, evidence in numbers, where, and from which step on."""

    severity: float
    evidence: dict[str, Any]
    where: str | None = None
    step: int | None = None
