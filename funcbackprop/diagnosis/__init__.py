"""Why training fails although every gradient is right: a diagnosis with evidence."""

from .data import of_data
from .diagnose import diagnose
from .hook import hook, measure, of_next_update
from .result import Diagnosis, Finding, findings
from .rules import EXPLAINS, RULES, SAME, Rule
from .sign import Sign

__all__ = [
    "EXPLAINS",
    "RULES",
    "SAME",
    "Diagnosis",
    "Finding",
    "Rule",
    "Sign",
    "diagnose",
    "findings",
    "hook",
    "measure",
    "of_data",
    "of_next_update",
]
