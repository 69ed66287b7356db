"""How the numbers of a run came about: (topic, sentences), for what the run holds."""

from collections.abc import Iterator

from ..tables import number
from .run import Run


def sentences(run: Run) -> list[tuple[str, str]]:
    """One entry for each kind of measurement that the run made."""
    return [
        (topic, " ".join(found)) for topic, of in _TOPICS if (found := [x for x in of(run) if x])
    ]


def _steps(rows) -> str:
    steps = sorted({row["step"] for row in rows})
    if len(steps) > 15:
        return f"{len(steps)} steps from {steps[0]:,} to {steps[-1]:,}"
    listed = ", ".join(f"{step:,}" for step in steps)
    return f"step{'s' if len(steps) > 1 else ''} {listed}"


def _training(run) -> Iterator[str]:
    data, parameters = run.metadata.get("data") or {}, run.metadata.get("parameters")
    model, optimizer = run.config.get("model"), run.config.get("optimizer")
    if model is None:
        return
    size = f" ({parameters:,} parameters)" if parameters else ""
    examples = f", {data['examples']:,} training examples" if data.get("examples") else ""
    yield f"Model {model}{size} on {data.get('name') or 'its own data'}{examples}."
    if ":" in str(model):
        yield (
            "The optimizer is the one of the problem or, where it brings none, "
            f"{optimizer} with learning rate {number(run.config.get('learning_rate'))}."
        )
    else:
        yield f"Optimizer {optimizer}, learning rate {number(run.config.get('learning_rate'))}."
    yield (
        "Every epoch goes through the training examples once in an order of its own, which is a "
        "function of the seed."
    )


def _means(run) -> Iterator[str]:
    if not run.measurements:
        return
    yield (
        f"At {_steps(run.measurements)}: means over at most 2,048 examples of each set, the same "
        "ones at every step."
    )
    if any("standard_errors" in row for row in run.measurements):
        yield (
            "The standard error is that of a mean of independent examples; where all are right, "
            "or all wrong, two of each kind are added to tell one. It does not hold the chance of "
            "training, which only several seeds show."
        )


def _noise(run) -> Iterator[str]:
    if not run.noisy:
        return
    examples = run.noisy[0].get("examples")
    yield (
        f"At {_steps(run.noisy)}, from the gradients of {number(examples)} single training "
        "examples, the same ones at every step, taken as independent draws: "
        "S = sum |g - mean|²/(n - 1) and |G|² = |mean|² - S/n, both unbiased."
    )
    if any("limits" in row["noise"]["total"] for row in run.noisy):
        yield (
            "Standard errors are those of the delete-one jackknife. The 95 % interval of S is "
            "symmetric in the logarithm, that of the noise scale is Fieller's, with no upper limit "
            "where |G|² cannot be told from zero."
        )
    yield "The gradients of single examples are kept factored, and never written out."


def _sizes(run) -> Iterator[str]:
    if run.sizes:
        yield (
            f"At {_steps(run.sizes)}: {number(run.sizes[0].get('examples'))} of these examples in "
            "random order are cut into disjoint mini-batches. Seen is the sample variance of "
            "their gradients, summed over parameters; the prediction comes from single examples."
        )


def _tracked(run) -> Iterator[str]:
    if run.tracked:
        yield (
            "In every mini-batch of training, from the norms of its examples' gradients; S and "
            "|G|² are averaged over the last half of the steps so far, and their ratio is taken "
            "once. The interval is a jackknife over slots of neighbouring steps."
        )


def _check(run) -> Iterator[str]:
    if run.checks:
        name = run.checks[0].get("reference", "given")
        yield (
            f"At {_steps(run.checks)}, on at most 64 examples: JAX's gradient against {name}, a "
            "chain rule in float64 NumPy that uses no derivative of JAX. The bound is computed "
            "beside the gradient, from the rounding of every operation."
        )


def _effect(run) -> Iterator[str]:
    if run.effects:
        row = run.effects[0]
        yield (
            f"At {_steps(run.effects)}: the next update of the run is made on a copy. The change "
            f"of the loss of {number(row.get('examples'))} {row.get('data', '')} examples is "
            "measured, and predicted from their gradient and a product with their Hessian; "
            "intervals are those of means over these examples."
        )


def _sharpness(run) -> Iterator[str]:
    if run.sharpness:
        examples = run.sharpness[0].get("examples")
        yield (
            f"At {_steps(run.sharpness)}: ten steps of Lanczos on the Hessian of the loss of "
            f"{number(examples)} training examples. The sharpness of few examples is larger than "
            "that of all."
        )


def _diagnosis(run) -> Iterator[str]:
    if run.vitals:
        yield f"At {_steps(run.vitals)}, on the batch of the next update and on probes of it."


def _seeds(run) -> Iterator[str]:
    if len(run.seeds) > 1:
        yield (
            f"{len(run.seeds)} seeds ({', '.join(map(str, run.seeds))}): initial parameters and "
            "the order of the data differ, the data do not. Lines are means, bands the range."
        )


_TOPICS = (
    ("Training", _training),
    ("Loss and metrics", _means),
    ("Gradient check", _check),
    ("Gradient noise", _noise),
    ("Other batch sizes", _sizes),
    ("Noise at every step", _tracked),
    ("Next update", _effect),
    ("Sharpness", _sharpness),
    ("Diagnosis", _diagnosis),
    ("Seeds", _seeds),
)
