"""The density of the Hessian's eigenvalues by stochastic Lanczos quadrature."""

from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from ..contract import Loss
from .arguments import WHOLE, checked_count, on_mesh, seeded
from .lanczos import ritz, run
from .status import KNOWN
from .vectors import hessian_on_vectors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Points of the grid, and Gaussians' widths in the range of the nodes, if none are given.
_POINTS = 512
_WIDTHS = 100


class SpectralDensity(NamedTuple):
    """How the eigenvalues are spread: weights at nodes, and their sum of Gaussians on a grid.

    Attributes:
      nodes: [samples, k], eigenvalues as each random vector sees them, rising. loss/parameter^2.
      weights: [samples, k], shares of the P eigenvalues; their sum is 1.
      grid: [points], in the units of the nodes.
      density: [points], share of the eigenvalues for each unit of `grid`.
      width: standard deviation of the Gaussians, in the units of the nodes.
      status: int32, a code of `funcbackprop.curvature.STATUS`.
    """

    nodes: jax.Array
    weights: jax.Array
    grid: jax.Array
    density: jax.Array
    width: jax.Array
    status: jax.Array

    def moment(self, order: int) -> jax.Array:
        """tr(H^order)/P, unbiased for orders up to 2k - 1."""
        return jnp.sum(self.weights * self.nodes**order)

    def explain(self) -> str:
        """What the status means, as a sentence (on the host)."""
        return KNOWN.sentences(self.status)

    def to_dict(self) -> dict:
        """JSON-safe: numbers that are not finite are None, the status is its name."""
        return KNOWN.to_dict(self)

    def plot(self) -> "Figure":
        """The density over the eigenvalues, with a logarithmic axis of density."""
        from ..figures.curvature import spectral_density

        return spectral_density(self.to_dict())

    def __str__(self):
        return KNOWN.text(self)


def spectral_density(
    loss: Loss,
    params: chex.ArrayTree,
    batch: chex.ArrayTree,
    *,
    weights: Any = None,
    chunk_size: int | None = None,
    steps: int = 40,
    samples: int = 4,
    key: chex.PRNGKey | None = None,
    grid: Any = None,
    width: Any = None,
) -> SpectralDensity:
    """Density of the eigenvalues of H, the Hessian of the weighted mean loss.

    Each vector of random signs, by `steps` of Lanczos, gives the Gauss quadrature of its own
    spectral measure: nodes are Ritz values, weights the squared first entries of the eigenvectors
    of T. The mean over vectors is (1/P) sum_i delta(x - lambda_i), here with Gaussians for deltas.

    Args:
      loss: `loss(params, example) -> scalar` of one example, differentiable twice.
      params: a tree; integers, booleans and random keys in it are not differentiated.
      batch: a tree with a leading axis [B] on every leaf.
      weights: [B], relative importances; a row of weight 0 is padding.
      chunk_size: examples that are worked on at a time, as in `hvp`; None is all of them.
      steps: k, at most P are taken.
      samples: random vectors.
      key: None is a fixed one.
      grid: [points], eigenvalues; None is 512 points over all nodes.
      width: of the Gaussians, above zero; None is a hundredth of the range of the nodes.

    Returns:
      `SpectralDensity`. Pure; works under `jit`.

    Raises:
      TypeError, ValueError: an argument has the wrong form.

    Cost: samples k products with the Hessian, one after the other; memory 2 k P.

    Source: Ubaru, Chen and Saad 2017, Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature; Ghorbani, Krishnan and Xiao 2019, arXiv:1901.10159.

    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: 0.5 * jnp.sum(x * w**2)  # Hessian diag(x)
    >>> found = spectral_density(loss, jnp.zeros(2), jnp.array([[3.0, 4.0]]))
    >>> print(f"{found.nodes[0, 1]:.3f} {found.weights.sum():.3f} {found.moment(1):.3f}")
    4.000 1.000 3.500
    """
    steps = checked_count(steps, "steps", "spectral_density")
    samples = checked_count(samples, "samples", "spectral_density")
    _check_grid(grid)

    def measured(params, batch, weights, key):
        known = hessian_on_vectors(loss, params, batch, weights, chunk_size, "spectral_density")
        return _estimate(*known[1:], steps, samples, key, grid, width)

    return on_mesh(measured, SpectralDensity(*[WHOLE] * 6), params, batch, weights, seeded(key))


def _estimate(known, multiply, steps, samples, key, grid, width) -> SpectralDensity:
    def one(key):
        found = ritz(run(multiply, known.signs(key), min(steps, known.size), known))
        largest = found.values[jnp.maximum(jnp.sum(found.valid) - 1, 0)]
        nodes = jnp.minimum(found.values, largest)
        return nodes, jnp.where(found.valid, found.vectors[0] ** 2, 0), found.finite

    nodes, shares, finite = jax.lax.map(one, jax.random.split(key, samples))
    finite = jnp.all(finite)
    nodes, shares = (jnp.where(finite, x, jnp.nan) for x in (nodes, shares / samples))
    low, high = jnp.min(nodes), jnp.max(nodes)
    width = jnp.asarray(_usual_width(low, high) if width is None else width, known.dtype)
    if grid is None:
        grid = jnp.linspace(low - 4 * width, high + 4 * width, _POINTS)
    grid = jnp.asarray(grid, known.dtype)
    density = _density(grid, nodes.ravel(), shares.ravel(), width)
    status = KNOWN.first_that_holds((~finite, "not finite"))
    return SpectralDensity(nodes, shares, grid, density, width, status)


def _check_grid(grid):
    if grid is not None and jnp.ndim(grid) != 1:
        raise ValueError(
            "`spectral_density`: `grid` expected eigenvalues of shape [points], got shape "
            f"{jnp.shape(grid)}; None takes a grid over all nodes"
        )


def _usual_width(low, high):
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    # Equal eigenvalues have no range.
    span = jnp.where(high - low > 1e-3 * size, high - low, size)
    return jnp.where(span == 0, 1, span) / _WIDTHS


def _density(grid, nodes, shares, width):
    """sum_i share_i N(x; node_i, width^2) at each point, one after the other."""
    scale = width * (2 * jnp.pi) ** 0.5
    return jax.lax.map(
        lambda x: jnp.sum(shares * jnp.exp(-0.5 * ((x - nodes) / width) ** 2)) / scale, grid
    )
