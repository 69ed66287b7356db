"""The table of findings: what each asks, what to do, its source, and what follows from it."""

from collections.abc import Callable
from typing import NamedTuple

from . import questions
from .facts import Facts
from .sign import Sign


class Rule(NamedTuple):
    """One kind of finding.

    Attributes:
      title: what is wrong, in words.
      ask: finds it in what was measured: a `Sign`, or None.
      remedy: what to do.
      source: where definition and threshold come from.
    """

    title: str
    ask: Callable[[Facts], Sign | None]
    remedy: str
    source: str


RULES: dict[str, Rule] = {
    "not_finite": Rule(
        "the loss or the gradient is not finite",
        questions.numbers.not_finite,
        "Mend what the cause names. If inputs are not finite, leave these examples out (weight 0).",
        "funcbackprop.check_gradients",
    ),
    "labels_constant": Rule(
        "the labels are constant",
        questions.data.labels_constant,
        "Look at how the labels are read; there is nothing to learn from them.",
        "Karpathy 2019, A recipe for training neural networks",
    ),
    "labels_shuffled": Rule(
        "the labels do not belong to the inputs",
        questions.data.labels_shuffled,
        "Look at how inputs and labels are joined: shuffled apart, shifted, sorted on one side.",
        "Zhang et al. 2017, Understanding deep learning requires rethinking generalization, "
        "arXiv:1611.03530",
    ),
    "inputs_unscaled": Rule(
        "the inputs are not scaled",
        questions.data.inputs_unscaled,
        "Subtract the mean of each feature and divide by its standard deviation.",
        "LeCun, Bottou, Orr and Mueller 1998, Efficient backprop, section 4.3",
    ),
    "loss_summed": Rule(
        "the loss is a sum where a mean is meant",
        questions.data.loss_summed,
        "Divide the loss by the count that the evidence names. With plain SGD the same in effect "
        "as a learning rate too large by that count.",
        "Goyal et al. 2017, Accurate, large minibatch SGD, arXiv:1706.02677, section 2.3",
    ),
    "exploding": Rule(
        "signal or gradient explodes with depth",
        questions.signal.exploding,
        "Initialise after He et al. or Glorot and Bengio, normalise, or clip the gradient "
        "(optax.clip_by_global_norm).",
        "Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063; Glorot and Bengio 2010",
    ),
    "vanishing": Rule(
        "signal or gradient vanishes with depth",
        questions.signal.vanishing,
        "Initialise after He et al. or Glorot and Bengio, use residual connections or "
        "normalisation, or units that do not saturate.",
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural "
        "networks; He et al. 2015, arXiv:1502.01852",
    ),
    "dead_units": Rule(
        "units are dead: they let nothing through for any example",
        questions.signal.dead_units,
        "Start biases at 0 and weights after He et al., lower the learning rate if they die in "
        "training, or use leaky units.",
        "Lu et al. 2019, Dying ReLU and initialization, arXiv:1903.06733",
    ),
    "saturated": Rule(
        "units are saturated: their derivative is almost 0",
        questions.signal.saturated,
        "Start with smaller weights (Glorot and Bengio), scale what goes in, or normalise it.",
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural "
        "networks",
    ),
    "never_changes": Rule(
        "parameters never change",
        questions.signal.never_changes,
        "If it is not meant: look whether the loss uses them, whether two factors both start at "
        "0, and whether the optimizer leaves them out.",
        "the definition: an update of exactly 0 at every step measured",
    ),
    "underflow": Rule(
        "float16 gradients underflow",
        questions.numbers.underflow,
        "Scale the loss (by 2^10 or more) and divide the gradient by it, or compute in bfloat16.",
        "Micikevicius et al. 2018, Mixed precision training, arXiv:1710.03740, section 3.2",
    ),
    "update_lost": Rule(
        "updates are lost: w + u rounds to w",
        questions.numbers.update_lost,
        "Keep the weights in float32 and cast them in the loss, or round stochastically.",
        "Zamirai et al. 2020, Revisiting bfloat16 training, arXiv:2010.06192",
    ),
    "optimizer_state": Rule(
        "the optimizer's state is blown up",
        questions.numbers.optimizer_state,
        "Clip the gradient, leave out steps that are not finite (optax.apply_if_finite), take a "
        "smaller b2, or start the state anew.",
        "Molybog et al. 2023, A theory on Adam instability in large-scale machine learning, "
        "arXiv:2304.09871",
    ),
    "rate_too_large": Rule(
        "the learning rate is above the stability limit",
        questions.step.rate_too_large,
        "Divide the learning rate by 4, or warm it up.",
        "Cohen et al. 2021, Gradient descent on neural networks typically occurs at the edge of "
        "stability, arXiv:2103.00065",
    ),
    "rate_too_small": Rule(
        "the learning rate is far below what curvature and noise allow",
        questions.step.rate_too_small,
        "Multiply the learning rate by 4.",
        "Schneider, Dangel and Hennig 2021, Cockpit, arXiv:2102.06604 (the alpha of a step)",
    ),
    "noise_dominated": Rule(
        "noise dominates: the batch is too small for the progress asked",
        questions.step.noise_dominated,
        "Take a batch 4 times as large, or average weights, or let the learning rate decay.",
        "McCandlish et al. 2018, An empirical model of large-batch training, arXiv:1812.06162",
    ),
    "update_ratio": Rule(
        "one layer moves far more than the others",
        questions.step.update_ratio,
        "Give it the learning rate of the others, or look at its initialisation.",
        "You, Gitman and Ginsburg 2017, Large batch training of convolutional networks, "
        "arXiv:1708.03888",
    ),
}

# Cause -> what follows from it. If the cause is found with severity SURE or more, it stands first.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "labels_constant": (*(set(RULES) - {"labels_constant", "not_finite"}),),
    "inputs_unscaled": (
        *("rate_too_large", "rate_too_small", "noise_dominated", "dead_units", "saturated"),
        *("exploding", "update_ratio", "not_finite", "vanishing", "optimizer_state"),
        *("loss_summed", "never_changes"),
    ),
    "loss_summed": ("rate_too_large", "not_finite", "dead_units", "noise_dominated"),
    "exploding": (
        *("rate_too_large", "not_finite", "dead_units", "saturated", "update_ratio"),
        *("loss_summed", "noise_dominated", "rate_too_small"),
    ),
    "saturated": (
        *("rate_too_small", "rate_too_large", "noise_dominated", "vanishing", "loss_summed"),
        "never_changes",
    ),
    "dead_units": (
        *("rate_too_small", "rate_too_large", "noise_dominated", "vanishing", "never_changes"),
    ),
    "vanishing": ("rate_too_small", "noise_dominated", "update_ratio", "never_changes"),
    "labels_shuffled": ("noise_dominated", "rate_too_large", "rate_too_small"),
    "underflow": (
        *("rate_too_small", "never_changes", "vanishing", "rate_too_large"),
        *("not_finite", "optimizer_state"),
    ),
    "update_lost": ("rate_too_small", "never_changes"),
    "optimizer_state": ("rate_too_small",),
    "never_changes": ("rate_too_small", "rate_too_large", "noise_dominated"),
    "update_ratio": ("rate_too_large", "noise_dominated", "rate_too_small", "not_finite"),
    "rate_too_large": ("not_finite", "optimizer_state"),
}
# Of these, what is seen first explains what is seen later; a step too long, noise, or what is wrong
# from the beginning explains those that are not there at the start.
LATER = ("exploding", "vanishing", "saturated", "dead_units", "update_ratio", "optimizer_state")
STEP = ("rate_too_large", "rate_too_small", "noise_dominated")
GIVEN = ("inputs_unscaled", "labels_shuffled", "loss_summed", "underflow", "update_lost")
# Truly the same in effect: plain SGD cannot tell a sum from a rate too large; and noise grows with
# rate / batch (Smith and Le 2018, arXiv:1710.06451).
SAME = (
    frozenset({"loss_summed", "rate_too_large"}),
    frozenset({"noise_dominated", "rate_too_large"}),
)
