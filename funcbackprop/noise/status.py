"""Why a number cannot be trusted, or cannot be had: one table for all estimators."""

from ..results import Statuses

# code -> (name, sentence). Codes are stable: they are what a traced result carries.
STATUS = {
    0: ("ok", "The estimate is usable."),
    1: (
        "one example",
        "Fewer than two examples have positive weight, so no spread can be seen; "
        "give at least two examples.",
    ),
    2: (
        "not finite",
        "A gradient holds NaN or inf, or its square "
        "overflows; find the example whose norm is not finite.",
    ),
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
    10: (
        "no interval",
        "The estimate is usable, but the data are too few to tell its error; give at least two "
        "mini-batches, of two examples or more.",
    ),
    11: (
        "unit is the batch",
        'With unit="batch" the gradient of a single example does not exist; only numbers of the '
        "whole mini-batch do.",
    ),
    12: (
        "batches no random samples",
        "The mini-batch means spread differently than random samples of these examples would: the "
        "data may be sorted, or the examples of a mini-batch correlated. What is predicted from "
        "single examples does not hold; trust `across_batches`.",
    ),
    13: (
        "one draw",
        "With one draw for each example the two parts cannot be told apart: the variance of one "
        "example holds both. Pass draws=2 or more.",
    ),
    14: (
        "within below rounding",
        "The draws of an example differ by no more than rounding: the loss may not use its key.",
    ),
    15: (
        "no spread to see",
        "The sampling law leaves no spread between these mini-batches: there is only one, or each "
        "holds the whole population.",
    ),
    16: (
        "zero variance",
        "All gradients are equal, so a ratio to their variance is infinite or undefined.",
    ),
    17: (
        "zero gradients",
        "Every gradient is zero in every coordinate, so the ratio is 0/0 throughout.",
    ),
    18: (
        "one mini-batch",
        "E[g^2] of a mini-batch's gradient cannot be had from one mini-batch, whose own gradient "
        "may be near zero in some coordinate; give at least two.",
    ),
    20: (
        "unbounded above",
        "The denominator cannot be told from zero with these examples, so the ratio has no upper "
        "limit. Use more examples.",
    ),
    21: (
        "no inner products",
        "The values are usable, but standard errors need the inner products with the mean: measure "
        "funcbackprop.InnerWithMean() and pass it as `inner`.",
    ),
    22: (
        "one part",
        "Only one part, so no spread between parts can be seen; split the batch in more parts, or "
        "measure funcbackprop.SquaredNorms() and funcbackprop.InnerWithMean().",
    ),
    23: (
        "too few to leave one out",
        "The values are usable, but standard errors need at least three examples or parts.",
    ),
    24: (
        "unbounded",
        "The denominator cannot be told from zero with these examples, so the ratio may be any "
        "number. Use more examples.",
    ),
    25: (
        "no spread of single examples",
        "The values are usable, but elementwise variances tell no standard errors: measure "
        "`noise_scale` of the loss from funcbackprop.noise.preconditioned_loss.",
    ),
    26: (
        "no step taken",
        "The optimizer's second moments are zero or not above zero somewhere, so the "
        "preconditioner is not finite; take at least one step.",
    ),
    27: (
        "statistics disagree",
        "The inner products with the mean do not average to |mean|^2, as they must: the statistics "
        "are of different batches, or were measured with other `weights` than were given here.",
    ),
    30: (
        "error not known",
        "The number is usable, but its standard error cannot be had from what was given: the "
        "documentation of the function says which statistic would give it, if any does. A "
        "jackknife needs at least three examples.",
    ),
    31: (
        "zero mean gradient",
        "The mean gradient is exactly zero, so no batch size can pass the test.",
    ),
    32: (
        "loss not above its optimum",
        "The mean loss is not above `optimum`, the smallest that it can be, so there is nothing to "
        "gain and no batch size follows.",
    ),
    33: (
        "gain out of range",
        "The true gain is between 1 and the number of replicas; the estimate is outside because "
        "the unbiased |G|^2 is not above zero. Use more examples, or average S and |G|^2 over "
        "steps.",
    ),
    34: (
        "coordinate without spread",
        "In some coordinate all gradients are equal and not zero, so its ratio, and the mean, is "
        "infinite or extreme.",
    ),
    35: (
        "unequal weights",
        "This estimator has no weighted form: give weights of 0 and 1 only.",
    ),
    36: (
        "extreme value",
        "A minimum over pairs has no standard error: it falls as examples are added, so compare "
        "only minima over equal numbers of examples.",
    ),
    37: (
        "spectrum not above zero",
        "The unbiased tr(Sigma^2) is zero: no two differences of gradients have an inner product, "
        "so these examples do not bound the effective rank. Use more examples.",
    ),
    38: ("no spread", "All gradients are equal (or zero), so this ratio is 0/0."),
    39: (
        "too few examples",
        "The estimator needs more examples of positive weight: four for tr(Sigma^2), two blocks "
        "for a tail index, two gradients that are not zero for a cosine.",
    ),
    40: (
        "probability not positive",
        "A sampling probability or a weight is not above zero and finite, so the estimate would "
        "be biased. Mix probabilities with uniform ones: "
        "reduction.norm_probabilities(norms, mix=0.1).",
    ),
    41: (
        "no variance to reduce",
        "The gradients that are compared do not vary over the examples, so a ratio of variances, "
        "or a coefficient that divides by one, has no value.",
    ),
    42: (
        "variance at rounding",
        "The variance left is what rounding of the gradient makes, so it is zero for all that "
        "can be told, and its ratio has no meaningful interval. Compute in float64 to see it.",
    ),
    43: (
        "stratum of too few examples",
        "A stratum holds too few examples to estimate the variance within it, or the error of "
        "that; give at least three examples of each stratum, or merge strata.",
    ),
    50: ("no step recorded", "No step was recorded yet; call the tracker's update in every step."),
    51: (
        "too few steps",
        "The values are usable, but an interval needs at least 8 slots of steps: 15 recorded steps "
        "where the last half is asked for, 8 where all are.",
    ),
    52: (
        "correlated slots",
        "Neighbouring slots of steps are alike: what was recorded drifts, or is correlated over "
        "times that are not short beside a slot. The value is the mean of these steps, and its "
        "interval may be too short. Record more steps, or take a shorter window: a smaller `last`, "
        "with more `slots`.",
    ),
}

_KNOWN = Statuses(STATUS)
names, sentences, code = _KNOWN.names, _KNOWN.sentences, _KNOWN.code
first_that_holds, first_problem = _KNOWN.first_that_holds, _KNOWN.first_problem
to_dict, text = _KNOWN.to_dict, _KNOWN.text
