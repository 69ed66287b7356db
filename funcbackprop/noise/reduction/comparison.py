"""What a comparison of estimators found, as numbers, as a table and in words."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...files import json_safe
from ...tables import number, text
from .. import status as statuses
from ..estimate import Estimate, normal, quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "plain"

# An estimator whose mean error is this many standard scores from zero is called biased.
BIAS_Z = 4.0
# An error of an estimate below this many times what rounding makes of one term is rounding.
_ROUNDING_FACTOR = 16


class Run(NamedTuple):
    """Repetitions of one estimator, with errors e_r about the true gradient.

    Attributes:
      sq_errors: |e_r|^2, [R].
      products: <e_r, e_(r-1)>, [R - 1]: their mean square is tr(Cov(e)^2).
      sq_bias: |mean of the e_r|^2.
      predicted: variance by the formula.
    """

    sq_errors: Any
    products: Any
    sq_bias: Any
    predicted: Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator in a comparison.

    Attributes:
      name: as given.
      draws: examples of one estimate.
      evaluations: gradient evaluations of one estimate.
      setup: gradient evaluations before the first one.
      variance: E|estimate - G|^2, squared gradient.
      predicted: the same by the formula.
      ratio: of the variance to that of plain sampling.
      ratio_with_setup: the same, with the set-up spread over the steps.
      bias_z: how far |mean error|^2 is above what no bias would make it, in standard deviations.
        NaN where the errors are rounding.
      sq_errors: of the repetitions, [R].
      status: a code of `funcbackprop.noise.STATUS`.
    """

    name: str
    draws: int
    evaluations: int
    setup: int
    variance: Estimate
    predicted: float
    ratio: Estimate
    ratio_with_setup: Estimate
    bias_z: float
    sq_errors: np.ndarray
    status: int

    @property
    def biased(self) -> bool:
        """Whether `bias_z` is above 4."""
        return self.bias_z > BIAS_Z

    @property
    def at_rounding(self) -> bool:
        """Whether no variance is left but that of rounding."""
        return self.status == statuses.code("variance at rounding")

    def to_dict(self) -> dict:
        """JSON-safe, without the single repetitions."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["sq_errors"]
        for name, value in fields.items():
            fields[name] = value.to_dict() if isinstance(value, Estimate) else value
        return json_safe({**fields, "status": statuses.names(self.status)})


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Estimators compared at an equal number of gradient evaluations; `str` is a table.

    `comparison[name]` is the `Row` of one estimator.

    Attributes:
      rows: one `Row` for each estimator, plain sampling first.
      evaluations: gradient evaluations of one estimate, at most.
      examples: N, in the data set.
      repetitions: of each estimator.
      steps: that the set-up is spread over.
    """

    rows: tuple[Row, ...]
    evaluations: int
    examples: int
    repetitions: int
    steps: int

    def __getitem__(self, name: str) -> Row:
        return {row.name: row for row in self.rows}[name]

    @property
    def winner(self) -> str | None:
        """The name of the estimator with the least `ratio_with_setup`, of those whose interval lies
        below 1 or whose variance is rounding, biased ones left out; `"plain"` if each other one is
        biased or has its interval above 1; None if neither can be told."""
        fair = [row for row in self.rows if not row.biased and np.isfinite(row.ratio.value)]
        better = [
            r
            for r in fair
            if r.name != PLAIN and (r.at_rounding or float(r.ratio_with_setup.upper) < 1)
        ]
        if better:
            return min(better, key=lambda r: float(r.ratio_with_setup.value)).name
        others = [row for row in self.rows if row.name != PLAIN]
        worse = [r.biased or float(r.ratio_with_setup.lower) > 1 for r in others]
        return PLAIN if others and all(worse) else None

    def explain(self) -> str:
        """Which estimator wins, by how much and at what cost, in words (on the host)."""
        lines = [self._verdict()]
        for row in self.rows:
            if row.biased:
                lines.append(f"{row.name} is biased: its mean error has z = {number(row.bias_z)}.")
            if row.status:
                lines.append(f"{row.name}: {statuses.sentences(row.status)}")
        return "\n".join(lines)

    def _verdict(self):
        winner = self.winner
        cost = f"{number(self.evaluations)} gradient evaluations a step"
        if winner is None:
            return (
                f"Nothing can be told: at {cost} no estimator's variance times cost can be told "
                "from that of plain sampling. More repetitions would narrow the intervals."
            )
        if winner == PLAIN:
            return f"Plain sampling is best: at {cost}, set-up included, every other one is worse."
        best = self[winner]
        if best.at_rounding:
            sentence = f"{winner} wins: at {cost} its gradient has no variance beyond rounding"
        else:
            sentence = (
                f"{winner} wins: at {cost} its variance is {best.ratio} of that of plain sampling"
            )
        if best.setup and not best.at_rounding:
            sentence += (
                f", and {best.ratio_with_setup} with its {number(best.setup)} set-up evaluations "
                f"spread over {number(self.steps)} steps"
            )
        tied = self._tied(best)
        return sentence + "." + (f" It cannot be told from {' or '.join(tied)}." if tied else "")

    def _tied(self, best):
        """Estimators whose ratio to the best one, in pairs, has an interval that holds 1."""
        others = [row for row in self.rows if row.name not in (PLAIN, best.name) and not row.biased]
        if best.at_rounding:
            return [row.name for row in others if row.at_rounding]
        found = []
        for row in others:
            if row.at_rounding or not np.isfinite(row.ratio.value):
                continue
            log_ratio, error = log_ratio_of(row.sq_errors, best.sq_errors)
            log_ratio += math.log(_cost(row) / _cost(best))
            if log_ratio - quantile() * error < 0:
                found.append(row.name)
        return found

    def to_dict(self) -> dict:
        """JSON-safe."""
        return json_safe(
            {
                "rows": [row.to_dict() for row in self.rows],
                "evaluations": self.evaluations,
                "examples": self.examples,
                "repetitions": self.repetitions,
                "steps": self.steps,
                "winner": self.winner,
                "explanation": self.explain(),
            }
        )

    def __str__(self):
        header = ["estimator", "draws", "set-up", "variance", "predicted", "ratio"]
        header += ["with set-up", "bias z"]
        rows = [
            [
                row.name,
                row.draws,
                row.setup,
                float(row.variance.value),
                row.predicted,
                _interval(row.ratio),
                _interval(row.ratio_with_setup),
                row.bias_z,
            ]
            for row in self.rows
        ]
        title = (
            f"{number(self.evaluations)} gradient evaluations a step, {number(self.examples)} "
            f"examples, {number(self.repetitions)} repetitions, set-up spread over "
            f"{number(self.steps)} steps"
        )
        return text(rows, header, title, 132) + "\n" + self.explain()

    def plot(self) -> "Figure":
        """The ratios with their intervals, on a log axis."""
        from ...figures.reduction import variance_ratios

        return variance_ratios([row.to_dict() for row in self.rows if row.name != PLAIN])


def row(name, found: Run, baseline, draws, estimator, per_step, rounding) -> Row:
    """What the repetitions say of one estimator; `rounding`: the error of a term of a gradient."""
    v = np.asarray(found.sq_errors, np.float64)
    mean, base = v.mean(), np.mean(baseline, dtype=np.float64)
    at_rounding = mean <= (_ROUNDING_FACTOR * rounding) ** 2
    flat = base <= (_ROUNDING_FACTOR * rounding) ** 2
    status = statuses.first_that_holds(
        (~np.isfinite(mean), "not finite"),
        (flat, "no variance to reduce"),
        (at_rounding, "variance at rounding"),
    )
    ratio = _ratio(v, np.asarray(baseline, np.float64), 1.0, status, flat, name == PLAIN)
    with_setup = _ratio(
        v, np.asarray(baseline, np.float64), 1 + per_step, status, flat, name == PLAIN
    )
    return Row(
        name=name,
        draws=draws,
        evaluations=draws * estimator.evaluations,
        setup=estimator.setup,
        variance=normal(mean, v.std(ddof=1) / math.sqrt(len(v)), status, len(v) - 1),
        predicted=float(found.predicted),
        ratio=ratio,
        ratio_with_setup=with_setup,
        bias_z=math.nan if at_rounding else _bias_score(found, mean, rounding),
        sq_errors=v,
        status=int(status),
    )


def _ratio(v, baseline, cost, status, flat, own):
    """The ratio of means times a cost, with an interval on the log scale."""
    if own and not flat:
        return _fixed(cost, 0.0, cost, cost, status)
    if flat or not v.mean() > 0:
        value = math.nan if flat else 0.0
        return _fixed(value, math.nan, math.nan, math.nan, status)
    log_ratio, error = log_ratio_of(v, baseline)
    value, half = cost * math.exp(log_ratio), math.exp(quantile() * error)
    return _fixed(value, value * error, value / half, value * half, status)


def _fixed(value, error, lower, upper, status):
    value, error, lower, upper = (np.float64(x) for x in (value, error, lower, upper))
    return Estimate(value, error, lower, upper, status)


def log_ratio_of(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """log(mean a/mean b) of paired values [R], with the error of the delete-one jackknife.

    What leaving one out changes is computed itself, so that nothing cancels.
    """
    R = len(a)
    change = [np.log1p((1 - x / x.mean()) / (R - 1)) for x in (a, b)]
    error = float(np.sqrt((R - 1) * np.var(change[0] - change[1])))
    return math.log(a.mean() / b.mean()), error


def _bias_score(found, variance, rounding):
    """The Gaussian score of |mean error|^2, which is V/R in expectation without a bias.

    With a Gaussian mean error, R |mean error|^2/V is a mean of chi-squares: about chi^2_d/d with
    d = V^2/tr(Cov^2) (Satterthwaite 1946), and its cube root about normal (Wilson and Hilferty
    1931). What rounding explains is taken off first.
    """
    R = len(found.sq_errors)
    trace = float(np.mean(np.asarray(found.products, np.float64) ** 2))
    freedom = max(1.0, variance**2 / trace) if trace > 0 else 1.0
    error = max(math.sqrt(float(found.sq_bias)) - rounding, 0.0)
    spread = 2 / (9 * freedom)
    return ((R * error**2 / variance) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def _cost(row):
    return float(row.ratio_with_setup.value) / float(row.ratio.value)


def _interval(estimate):
    value, lower, upper = (float(x) for x in (estimate.value, estimate.lower, estimate.upper))
    return (
        number(value)
        if lower == upper or math.isnan(lower)
        else (f"{number(value)} [{number(lower)}, {number(upper)}]")
    )
