"""The terms of the report."""

from typing import NamedTuple


class Term(NamedTuple):
    """An entry of the glossary.

    Attributes:
      key: of its anchor, `#term-key`.
      name: as it stands in the glossary.
      meaning: what it is.
      spellings: how it occurs in a text that links here; letters of either case.
    """

    key: str
    name: str
    meaning: str
    spellings: tuple[str, ...] = ()


GLOSSARY = (
    Term(
        "step",
        "Step",
        "The number of updates made; step 0 is the initialisation.",
    ),
    Term(
        "interval",
        "Interval, ±",
        "In brackets, and as a band or bar: the 95 % interval. After ±: the standard error over "
        "examples or, of several seeds, the standard deviation over seeds; the heading says which.",
        ("95 % interval", "95 % intervals", "95 % limits", "interval", "standard error"),
    ),
    Term(
        "S",
        "S = tr Σ",
        "The variance of one example's gradient, summed over all parameters, estimated without "
        "bias. Unit: squared gradient, loss² / parameter².",
        ("variance of one example's gradient", "S and |G|²"),
    ),
    Term(
        "G",
        "|G|²",
        "The squared norm of the mean gradient, estimated without bias: what noise adds to it is "
        "subtracted. The estimate may be negative, and is shown as it is. Status |G|² ≤ 0: it is "
        "not above zero, so there is no noise scale. Unit: as S.",
        ("|G|²", "squared norm of the mean gradient"),
    ),
    Term(
        "noise-scale",
        "Noise scale",
        "S / |G|², in examples (B_simple of McCandlish, Kaplan and Amodei 2018, arXiv:1812.06162): "
        "the batch size at which the variance of the mini-batch gradient equals |G|².",
        ("noise scale", "noise scale S/|G|²"),
    ),
    Term(
        "batch-variance",
        "Mini-batch variance",
        "S/B: the variance of the mean gradient of B examples drawn with replacement, summed over "
        "parameters. Drawn without replacement from N examples, it is 1 - B/N times that. Unit: "
        "as S.",
        ("mini-batch variance", "variance of the mini-batch gradient", "variance S/B", "S/B"),
    ),
    Term(
        "signal-to-noise",
        "Signal to noise",
        "B |G|² / S: of a mini-batch of B examples, the batch size divided by the noise scale. 1 "
        "means that signal and noise are equal. A pure number; not above zero where |G|² ≤ 0.",
        ("signal to noise",),
    ),
    Term(
        "relative-error",
        "Relative error",
        "max|a - b| / max|b| over the elements of a leaf: a is JAX's gradient, b the reference; "
        "in units of the bound where that is larger than b.",
        ("relative error",),
    ),
    Term(
        "bound",
        "Error / bound",
        "|a - b| of an element in units of what rounding explains there: seven standard deviations "
        "of its rounding, in the dtypes of the program. Up to 1 the element agrees.",
        ("of its bound", "what rounding explains", "error / bound"),
    ),
    Term(
        "would-notice",
        "Would notice",
        "The smallest change of a whole leaf, by a common factor, that would exceed the bound.",
    ),
    Term(
        "leaf",
        "Leaf",
        "One array of the parameters, named by its path in the tree.",
        ("leaf",),
    ),
    Term(
        "first-order",
        "First order, curvature",
        "Of an update u: <G, u> and uᵀHu/2, with the mean gradient G and the mean Hessian H of "
        "the examples. Their sum is the predicted change of the loss. Unit: loss.",
        ("first order", "first-order", "second order", "curvature"),
    ),
    Term(
        "sharpness",
        "Sharpness",
        "The largest eigenvalue of the Hessian H, by a Lanczos process: a lower bound, with an "
        "upper bound that holds with 95 % probability over its random start. Preconditioned: of "
        "D^(-1/2) H D^(-1/2), where the optimizer divides its update by D. Unit: loss / "
        "parameter², divided by that of D.",
        ("sharpness", "preconditioned sharpness"),
    ),
    Term(
        "threshold",
        "Threshold of stability",
        "2/η for gradient descent with the learning rate η; (2 + 2 b1) / ((1 - b1) η) for Adam, "
        "against the preconditioned sharpness (Cohen et al. 2021, arXiv:2103.00065, and 2022, "
        "arXiv:2207.14484).",
        ("threshold of stability", "of the threshold"),
    ),
    Term(
        "seeds",
        "Several seeds",
        "Lines are means over seeds and bands reach from the smallest to the largest value; the "
        "standard deviation is that of the sample (n - 1). The mean noise scale is that of the "
        "finite estimates.",
        ("several seeds",),
    ),
)
