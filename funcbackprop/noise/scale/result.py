"""What is said about the noise scale: values with intervals, in total, by leaf and by group."""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from ... import tables
from ...contract import leaf_names
from ...files import json_safe
from .. import status as statuses
from ..estimate import Estimate

_HEADERS = ("", "S", "|G|²", "B_simple", "95 % interval", "status")
_LONGEST_NAME = 26
_WIDTH = 160  # numbers are not shortened


class NoiseScale(NamedTuple):
    """S, |G|^2 and the noise scale S/|G|^2, in total or for some of the parameters.

    Attributes:
      S: unbiased tr(Sigma), the variance of one example's gradient. Squared gradient.
      sq_gradient_norm: unbiased |G|^2; it may be negative. Squared gradient.
      B_simple: S/|G|^2, a number of examples (McCandlish, Kaplan and Amodei 2018,
        arXiv 1812.06162); infinite where |G|^2 is not above zero. Not unbiased, being a ratio.
      examples: the effective number (sum w)^2/sum w^2.
      per_leaf: a tree like `params` with a `NoiseScale` for each leaf, or None.
      groups: name -> `NoiseScale` of the leaves of a group, or None.
    """

    S: Estimate
    sq_gradient_norm: Estimate
    B_simple: Estimate
    examples: chex.Array
    per_leaf: Any = None
    groups: Any = None

    def explain(self) -> str:
        """What the statuses mean, as sentences, each once (on the host)."""
        codes = [np.ravel(x.status) for x in (self.S, self.sq_gradient_norm, self.B_simple)]
        return statuses.sentences(np.unique(np.concatenate(codes)))

    def to_dict(self) -> dict:
        """JSON-safe, leaves by their paths."""
        return json_safe(
            {
                "S": self.S.to_dict(),
                "sq_gradient_norm": self.sq_gradient_norm.to_dict(),
                "B_simple": self.B_simple.to_dict(),
                "examples": np.asarray(self.examples),
                "per_leaf": {name: x.to_dict() for name, x in _leaves(self.per_leaf).items()},
                "groups": {name: x.to_dict() for name, x in (self.groups or {}).items()},
            }
        )

    def __str__(self):
        try:
            np.asarray(self.B_simple.value)
        except jax.errors.TracerArrayConversionError:
            return "NoiseScale(traced)"
        if np.ndim(self.B_simple.value):
            return "\n".join(f"{name}:\n{getattr(self, name)}" for name in self._fields[:3])
        parts = self.groups or _leaves(self.per_leaf)
        names = ["all", *tables.labels(list(parts), _LONGEST_NAME)]
        rows = [_row(name, x) for name, x in zip(names, [self, *parts.values()], strict=True)]
        return f"{tables.text(rows, _HEADERS, width=_WIDTH)}\n{self._sentence()}"

    def _sentence(self):
        low, high = float(self.B_simple.lower), float(self.B_simple.upper)
        if np.isnan(low):
            return self.explain()
        most = "has no upper limit" if np.isinf(high) else f"is at most {tables.number(high)}"
        return (
            f"At 95 % the noise scale is at least {tables.number(low)} examples and {most}, "
            f"from {tables.number(float(self.examples))} examples."
        )


def _leaves(tree):
    if tree is None:
        return {}
    is_leaf = lambda x: isinstance(x, NoiseScale)  # noqa: E731
    leaves = jax.tree.leaves(tree, is_leaf=is_leaf)
    return dict(zip(leaf_names(tree, is_leaf=is_leaf), leaves, strict=True))


def _row(name, x):
    B = x.B_simple
    show = lambda v: tables.number(float(v))  # noqa: E731
    interval = tables.NO_VALUE if np.isnan(B.lower) else f"[{show(B.lower)}, {show(B.upper)}]"
    S, sq_norm = (f"{show(e.value)} ± {show(e.standard_error)}" for e in x[:2])
    return [name, S, sq_norm, show(B.value), interval, statuses.names(B.status)]
