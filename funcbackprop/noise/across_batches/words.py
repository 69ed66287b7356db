"""A `GradientVariance` for readers: the table by leaf, and what it means in sentences."""

from typing import TYPE_CHECKING

import numpy as np

from ... import tables
from ...tables import number
from .. import status as statuses

if TYPE_CHECKING:
    from ..estimate import Estimate
    from .result import GradientVariance

_LONGEST_NAME = 26
_WIDTH = 150  # intervals are not shortened
_NO_SAMPLES = statuses.code("batches no random samples")
# Statuses without a line of their own: they are explained elsewhere, or need no explanation.
_EXPLAINED = ("ok", "one draw", "unit is the batch", "batches no random samples")
_AT_ROUNDING = statuses.code("variance at rounding")


def table(result: "GradientVariance") -> str:
    """One row for each leaf, the total last."""
    names = [*tables.labels(result.names, _LONGEST_NAME), "total"]
    nested, coupled = result.setup.draws > 1, result.setup.coupled
    rows = [_row(result, k, name, nested, coupled) for k, name in enumerate(names)]
    headers = [
        "leaf",
        *([] if coupled else ["S"]),
        *(["within"] if nested else []),
        "batch variance",
        "normalised",
        "signal/noise",
    ]
    return tables.text(rows, headers, title=_title(result), width=_WIDTH)


def _row(result, k, name, nested, coupled):
    e = result.estimates
    share = float(e.within.value[k]) / (float(e.S.value[k]) or np.nan)
    return [
        name,
        *([] if coupled else [float(e.S.value[k])]),
        *([tables.percent(share)] if nested else []),
        _with_interval(e.batch_variance, k),
        float(e.normalised_variance.value[k]),
        _with_interval(e.batch_signal_to_noise, k),
    ]


def _with_interval(e: "Estimate", k: int) -> str:
    value, lower, upper = (float(np.asarray(x)[k]) for x in (e.value, e.lower, e.upper))
    interval = "" if np.isnan(lower) else f" [{number(lower)}, {number(upper)}]"
    return number(value) + interval


def _title(result):
    law = result.sampling
    drawn = (
        "independent examples"
        if np.isinf(law.population)
        else f"{type(law).__name__} of {law.population:,}"
    )
    if result.setup.coupled:
        return f"Gradient variance: {result.batches:,} mini-batches with a coupled loss"
    size = number(result.batch_size)
    return (
        f"Gradient variance: {result.batches:,} mini-batches of {size}, "
        f"{result.examples:,} examples, {drawn}"
    )


def sentences(result: "GradientVariance") -> list[str]:
    """What the numbers mean for these data, most important first."""
    said = (
        _not_finite(result),
        _no_samples(result),
        _noise(result),
        _where(result),
        _nested(result),
        _exact(result),
        *_statuses(result),
        _skipped(result),
    )
    return [sentence for sentence in said if sentence]


def _not_finite(result):
    if result.not_finite is None:
        return ""
    batch, index = result.not_finite
    if index is None:
        return f"The gradient of mini-batch {batch} (from 0) holds NaN or inf."
    return f"The gradient of example {index} of mini-batch {batch} (both from 0) holds NaN or inf."


def _no_samples(result):
    total = result.total
    wrong = np.asarray(result.estimates.batch_variance.status) == _NO_SAMPLES
    if not wrong.any():
        return ""
    seen, predicted = (float(x.value) for x in (total.across_batches, _prediction(result)))
    where = "" if wrong[-1] else f" in {tables.some(list(np.array(result.names)[wrong[:-1]]), 2)}"
    return (
        f"The mini-batches are no random samples of their examples{where}: their gradients spread "
        f"with variance {number(seen)} in total, single examples predict {number(predicted)}. The "
        "data may be sorted, or the examples of a mini-batch correlated; trust `across_batches`, "
        "not what is predicted from single examples."
    )


def _prediction(result):
    """For the draws that `across_batches` holds."""
    if result.setup.draws == 1:
        return result.total.batch_variance
    return result.at_batch_size(result.batch_size, result.setup.draws).total


def _noise(result):
    ratio, variance = result.total.batch_signal_to_noise, result.total.batch_variance
    whose = (
        "The gradient of a mini-batch"
        if result.setup.coupled
        else f"The gradient of a mini-batch of {number(result.batch_size)}"
    )
    if not np.isfinite(variance.value) or variance.status == _NO_SAMPLES:
        return ""
    if variance.value == 0:
        return f"{whose} has no noise: its variance is zero."
    if variance.status == _AT_ROUNDING:
        return f"{whose} has no noise that can be told from rounding."
    if not ratio.value > 0:
        return (
            f"{whose} is noise as far as these data can tell: the unbiased |G|^2 is not above zero."
        )
    times = number(float(1 / ratio.value))
    text = f"{whose} has noise of {times} times its signal (variance over |G|^2)"
    if not np.isfinite(ratio.lower):
        return f"{text}; the data are too few for an interval."
    least = number(float(1 / ratio.upper))
    if ratio.lower <= 0:
        return f"{text}; 95 % interval: at least {least} times, unbounded above."
    return f"{text}; 95 % interval {least} to {number(float(1 / ratio.lower))}."


def _where(result):
    """The leaf with most of the variance."""
    values = np.asarray(result.estimates.batch_variance.value, np.float64)
    no_samples = np.asarray(result.total.batch_variance.status) == _NO_SAMPLES
    if len(result.names) < 2 or not 0 < values[-1] < np.inf or no_samples:
        return ""
    k = int(np.argmax(values[:-1]))
    share = tables.percent(float(values[k] / values[-1]))
    return f"{share} of the variance is in {result.names[k]}."


def _nested(result):
    if result.setup.coupled:
        return ""
    if result.setup.draws == 1:
        return (
            "The batches hold random keys: with one draw, S holds the variance between examples "
            "and that within. Pass draws=2 or more to tell them apart."
            if result.random
            else ""
        )
    S, within = (float(x.value) for x in (result.total.S, result.total.within))
    if not np.isfinite(S) or S == 0:
        return ""
    return (
        f"Of the variance of one example, {tables.percent(1 - within / S)} is between examples and "
        f"{tables.percent(within / S)} within, from its random draws."
    )


def _exact(result):
    if result.setup.error_factor > 0:
        return ""
    N = result.sampling.population
    epochs = number(result.examples / N)
    return (
        f"By {type(result.sampling).__name__}({N:,}) these are {epochs} whole epochs, which hold "
        "every example of the population equally often: what follows from single examples has no "
        "sampling error."
    )


def _statuses(result):
    """Each status of the numbers in the table, with the rows that have it."""
    rows = [*result.names, "total"]
    e = result.estimates
    codes = np.stack(
        [x.status for x in (e.batch_variance, e.normalised_variance, e.batch_signal_to_noise)]
    )
    for code in sorted(set(codes.ravel().tolist())):
        name, sentence = statuses.STATUS[code]
        where = [row for row, own in zip(rows, codes.T, strict=True) if code in own]
        if name not in _EXPLAINED:
            yield f"{name} ({tables.some(where, 3)}): {sentence}"


def _skipped(result):
    count, coordinates = int(result.skipped[-1]), int(np.asarray(result.parts.coordinates[0, -1]))
    if not count:
        return ""
    return (
        f"{count:,} of {count + coordinates:,} coordinates have zero gradient in every example and "
        "are left out of the normalised variance."
    )
