"""The largest eigenvalue of the Hessian, with bounds from below and above."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv

from ..contract import Loss, differentiable, same_structure
from .arguments import WHOLE, checked_count, on_mesh, seeded, specs
from .hvp import without_fixed
from .lanczos import Lanczos, Ritz, ritz, run
from .preconditioner import is_optimizer_state, preconditioner_of
from .status import KNOWN
from .vectors import BREAKDOWN, combined, hessian_on_vectors, minus, norm, scaled

# Halvings of the interval that holds the upper bound: enough for float64.
_HALVINGS = 60


class Sharpness(NamedTuple):
    """The largest eigenvalue of the (preconditioned) Hessian.

    Attributes:
      value: theta, the largest Ritz value (eigenvalue of the Lanczos matrix T). The largest
        eigenvalue is not below it. Units loss/parameter^2, divided by those of the preconditioner.
      residual: |H v - theta v|; some eigenvalue is within it of `value`.
      upper: the largest eigenvalue is at most this, with the probability that was asked for.
      smallest: the smallest Ritz value; the smallest eigenvalue is not above it.
      vector: the Ritz vector v of length 1, a tree like `params` with None at leaves that are not
        differentiated.
      steps_taken: int32, the dimension of the Krylov space.
      status: int32, a code of `funcbackprop.curvature.STATUS`.
    """

    value: jax.Array
    residual: jax.Array
    upper: jax.Array
    smallest: jax.Array
    vector: chex.ArrayTree
    steps_taken: jax.Array
    status: jax.Array

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return KNOWN.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name; no vector."""
        return KNOWN.to_dict(self, "vector")

    def __str__(self):
        return KNOWN.text(self, "vector")


def sharpness(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    *,
    weights: Any = None,
    chunk_size: int | None = None,
    preconditioner: Any = None,
    steps: int = 20,
    key: chex.PRNGKey | None = None,
    confidence: float = 0.95,
) -> Sharpness:
    """Largest eigenvalue of H, the Hessian of the weighted mean loss, by Lanczos.

    The upper bound. Let v_1 be the random start, p(x) = prod_i (x - theta_i) over the k Ritz
    values, and c = <v_1, u> with the eigenvector u of the largest eigenvalue lambda. Lanczos gives
    p(H) v_1 = beta_1 ... beta_k v_(k+1), whose component along u is c p(lambda), so

        |c| p(lambda) <= beta_1 ... beta_k.

    v_1 is uniform on the sphere, so c^2 ~ Beta(1/2, (P-1)/2), and |c| >= t with probability
    `confidence` for t^2 its (1 - confidence) quantile. p rises above the largest Ritz value: lambda
    is at most the root x of p(x) = beta_1 ... beta_k/t there. H may be indefinite, and nothing is
    assumed of its spectrum; only rounding is left out. Kuczynski and Wozniakowski show that
    the probability of a distance above eps (lambda_max - lambda_min) falls at least as fast as
    sqrt(P) exp(-(2k - 1) sqrt(eps)); the root is mostly far below that.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      batch: a tree with a leading axis [B] on every leaf.
      weights: [B], relative importances; a row of weight 0 is padding.
      chunk_size: examples that are worked on at a time, as in `hvp`; None is all of them.
      preconditioner: None; or D > 0, a tree like `params`, for the largest eigenvalue of
        D^-1/2 H D^-1/2 (`vector` is its eigenvector); or an optax state that `preconditioner_of`
        reads with its defaults.
      steps: k, at most P are taken.
      key: for the start; None is a fixed one. The probability is that of a key drawn at random.
      confidence: of `upper`, between 0 and 1.

    Returns:
      `Sharpness`. Pure; works under `jit`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: k + 1 products with the Hessian, O(k^2 P) beside them, memory 2 k P. With `chunk_size` the
    memory does not grow with B: 4 bytes for each example were measured.

    Source: Kuczynski and Wozniakowski 1992, Estimating the largest eigenvalue by the power and
    Lanczos algorithms with a random start; van Dorsselaer, Hochstenbach and van der Vorst 2000,
    Computing probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos
    method.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.dot(w, x) ** 2  # Hessian x x'
    >>> found = sharpness(loss, jnp.zeros(2), jnp.array([[3.0, 4.0]]))
    >>> print(f"{found.value:.3f} {found.upper:.3f}")
    25.000 25.000
    """
    steps = checked_count(steps, "steps", "sharpness")
    _check_confidence(confidence)
    like, _ = differentiable(params, "sharpness")

    def measured(params, batch, weights, preconditioner, key):
        kept, known, multiply = hessian_on_vectors(
            loss, params, batch, weights, chunk_size, "sharpness"
        )
        multiply, positive = _scaled(multiply, preconditioner, params, kept, known)
        return _bounds(known, multiply, positive, steps, confidence, key)

    out = Sharpness(*[WHOLE] * 4, vector=specs(like), steps_taken=WHOLE, status=WHOLE)
    return on_mesh(measured, out, params, batch, weights, preconditioner, seeded(key))


def _bounds(known, multiply, positive, steps, confidence, key) -> Sharpness:
    found = run(multiply, known.normal(key), min(steps, known.size), known)
    values = ritz(found)
    last = jnp.maximum(found.steps_taken - 1, 0)
    theta = values.values[last]
    vector = combined(values.vectors[:, last], found.basis)
    residual = norm(minus(multiply(vector), scaled(theta, vector)))
    finite = values.finite & jnp.isfinite(residual)
    status = KNOWN.first_that_holds(
        (~positive, "preconditioner not positive"), (~finite, "not finite")
    )
    upper = _upper(found, values, known.size, confidence)
    told = lambda x: jnp.where(status == 0, x, jnp.nan)  # noqa: E731
    return Sharpness(
        value=told(theta),
        residual=told(residual),
        upper=told(upper),
        smallest=told(values.values[0]),
        vector=known.unpack([told(a) for a in vector]),
        steps_taken=found.steps_taken,
        status=status,
    )


def _check_confidence(confidence):
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise ValueError(
            "`sharpness`: `confidence` expected a number between 0 and 1, got "
            f"{confidence!r}; 0.95 is usual"
        )


def _scaled(multiply, preconditioner, params, kept, known):
    """`(x -> D^-1/2 H D^-1/2 x, whether D is positive)`."""
    if preconditioner is None:
        return multiply, jnp.bool_(True)
    if is_optimizer_state(preconditioner):
        preconditioner = preconditioner_of(preconditioner)
    D = without_fixed(preconditioner, params)
    same_structure(D, kept, "preconditioner", "sharpness")
    _check_real(D)
    # A complex parameter is two coordinates with the same divisor.
    both = jax.tree.map(lambda p, d: d * (1 + 1j) if jnp.iscomplexobj(p) else d, kept, D)
    roots = [jnp.sqrt(d) for d in known.pack(both)]
    positive = jnp.all(jnp.stack([jnp.all((r > 0) & jnp.isfinite(r)) for r in roots]))
    roots = [jnp.where(positive, r, 1) for r in roots]
    divided = lambda x: [a / r for a, r in zip(x, roots, strict=True)]  # noqa: E731
    return lambda x: divided(multiply(divided(x))), positive


def _check_real(D):
    wrong = [jnp.result_type(d) for d in jax.tree.leaves(D) if jnp.iscomplexobj(d)]
    if wrong:
        raise TypeError(
            f"`sharpness`: `preconditioner` expected real numbers above zero, got {wrong[0]}; a "
            "complex parameter has one real divisor"
        )


def _upper(found: Lanczos, values: Ritz, n: int, confidence: float):
    """The root of sum log(x - theta_i) = sum log beta_i - log t above the largest theta."""
    valid = values.valid
    least = math.sqrt(betaincinv(0.5, (n - 1) / 2, 1 - confidence)) if n > 1 else 1.0
    top = values.values[jnp.maximum(found.steps_taken - 1, 0)]
    size = jnp.max(jnp.where(valid, jnp.abs(values.values), 0))
    size = jnp.where(size > 0, size, 1)
    # A beta at rounding stands for one that may be as large as rounding.
    betas = jnp.maximum(found.betas / size, BREAKDOWN * jnp.finfo(size.dtype).eps)
    goal = jnp.sum(jnp.where(valid, jnp.log(betas), 0)) - np.log(least)
    gaps = jnp.where(valid, (top - values.values) / size, 1)

    def excess(above):
        return jnp.sum(jnp.where(valid, jnp.log(above + gaps), 0)) - goal

    # The root is in exp(low), exp(high): prod (x - theta_i) >= (x - top)^k.
    high = goal / jnp.maximum(found.steps_taken, 1)
    low = jnp.minimum(jnp.log(jnp.finfo(size.dtype).tiny), high)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        enough = excess(jnp.exp(middle)) >= 0
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    _, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return top + size * jnp.exp(high)
