"""Why a number of this room may be undefined."""

from ..results import Statuses

# code -> (name, sentence). Codes are stable: they are what a traced result carries.
STATUS = {
    0: ("ok", "The numbers are usable."),
    1: (
        "not finite",
        "A product with the Hessian holds NaN or inf: the loss has no finite second derivative "
        "here, or all weights are zero.",
    ),
    2: (
        "preconditioner not positive",
        "The preconditioner is not above zero and finite everywhere. If it was read from an "
        "optimizer's state, take a step first.",
    ),
    3: (
        "one sample",
        "The value is usable, but one random vector tells no standard error; take more samples.",
    ),
}

KNOWN = Statuses(STATUS)
