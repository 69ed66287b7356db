"""Statistics with a value for every example, per parameter leaf."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ...contract import rows
from ..numbers import real
from .protocol import Leafwise, Part, accumulator, tree_of


class _Rows(Leafwise):
    """The state is a tree of arrays [B, ...]; chunks are concatenated."""

    per_example: ClassVar[bool] = True

    def init(self, params):
        """The state of no examples."""
        shape = (0, *self._of_one(params))
        return jax.tree.map(lambda p: jnp.zeros(shape, accumulator(p).real.dtype), params)

    def _of_one(self, params) -> tuple[int, ...]:
        """The shape of what belongs to one example and leaf."""
        return ()

    def collect(self, parts, params, weights):
        kept = (
            jnp.where(rows(weights > 0, part.sums), part.sums, jnp.zeros((), part.sums.dtype))
            for part in parts
        )
        return tree_of(params, list(kept))

    def merge(self, a, b):
        """The rows of `a`, then those of `b`."""
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)

    def finalize(self, state, params):
        """The rows."""
        return state


class _RelativeToMean(_Rows):
    """Rows that refer to the mean of the batch that they were measured on."""

    needs_mean: ClassVar[bool] = True

    def merge(self, a, b):
        """The state that has examples; ValueError if both have."""
        return _of_one_batch(type(self).__name__, "are relative to different means", a, b)


def _of_one_batch(name, why, a, b):
    """The one of two states that has examples; ValueError if both have."""
    if all(len(x) for state in (a, b) for x in jax.tree.leaves(state)):
        raise ValueError(
            f"`{name}`: the results of two micro-batches {why}, so their states cannot be merged; "
            "measure the whole batch at once"
        )
    return jax.tree.map(lambda x, y: x if len(x) else y, a, b)


@dataclass(frozen=True)
class SquaredNorms(_Rows):
    """|g_i|^2 of each example and leaf: a tree like `params` with leaves [B].

    `funcbackprop.total` sums over the leaves. Units: squared gradient; unscaled by the weights, and
    0 where w_i = 0.

    Cost: from factors, at most B T^2 (M + N) products for a weight [M, N] used at T positions.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.SquaredNorms())
    >>> print(measure(jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, 1.0]]))[1])
    [25.  1.]
    """

    def reduce(self, g, operands, numbers):
        return Part(sums=(yield g.sq_norms))


@dataclass(frozen=True)
class InnerWithMean(_RelativeToMean):
    """<g_i, G> of each example and leaf (real part), G the weighted mean: leaves [B].

    The mean over i, weighted, is |G|^2. 0 where w_i = 0. Units: squared gradient. Where gradients
    are written out: two passes over the batch unless it fits in one chunk. It cannot be merged over
    micro-batches.
    """

    def reduce(self, g, operands, numbers):
        mean = yield from g.mean()
        return Part(sums=(yield g.inner(mean)))


@dataclass(frozen=True)
class SquaredDeviations(_RelativeToMean):
    """|g_i - G|^2 of each example and leaf, centred before squaring: leaves [B].

    Keeps its digits where |g_i|^2 - |G|^2 would cancel. 0 where w_i = 0. Units: squared gradient.
    Where gradients are written out: two passes over the batch unless it fits in one chunk. It
    cannot be merged over micro-batches.
    """

    def reduce(self, g, operands, numbers):
        mean = yield from g.mean()
        return Part(sums=(yield g.sq_distances(mean)))


class _Together(_Rows):
    """The leaves are added up: one array [B, ...], unless they are asked for one by one."""

    per_leaf: bool = False

    def init(self, params):
        return self._joined(super().init(params))

    def collect(self, parts, params, weights):
        return self._joined(super().collect(parts, params, weights))

    def _joined(self, tree):
        return tree if self.per_leaf else functools.reduce(jnp.add, jax.tree.leaves(tree))


@dataclass(frozen=True)
class Projection(_Together):
    """Inner products <g_i, d> with given directions d (real part): [B], or [B, K] for K of them.

    Units: gradient times direction. 0 where w_i = 0.

    Attributes:
      directions: a tree like `params`; for K directions every leaf has a leading axis [K].
      per_leaf: whether the leaves are kept apart, in a tree like `params`.

    Raises:
      ValueError: when called, if `directions` is not like `params`.

    Cost: for each direction, about a third of the plain gradient.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.Projection(jnp.array([1.0, -1.0])))
    >>> print(measure(jnp.zeros(2), jnp.array([[1.0, 2.0], [5.0, 3.0]]))[1])
    [-1.  2.]
    """

    directions: Any
    per_leaf: bool = False

    def operands(self, params):
        return (_checked_directions(self.directions, params),)

    def _of_one(self, params):
        (directions,) = self.operands(params)
        pairs = zip(jax.tree.leaves(directions), jax.tree.leaves(params), strict=True)
        return next((jnp.shape(d)[: jnp.ndim(d) - jnp.ndim(p)] for d, p in pairs), ())

    def reduce(self, g, operands, numbers):
        return Part(sums=(yield g.inner(operands[0])))


def _checked_directions(directions, params):
    """`directions` for the leaves of `params`; ValueError unless it is like `params`."""
    leaves, treedef = jax.tree.flatten(params, is_leaf=lambda x: x is None)
    try:
        given = treedef.flatten_up_to(directions)
    except ValueError as error:
        raise ValueError(
            "`Projection`: `directions` must be a tree like `params`, which has the structure "
            f"{jax.tree.structure(params)}, got {jax.tree.structure(directions)}"
        ) from error
    pairs = [(d, p) for d, p in zip(given, leaves, strict=True) if p is not None]
    shapes = [(jnp.shape(d), jnp.shape(p)) for d, p in pairs]
    leads = {d[: len(d) - len(p)] for d, p in shapes}
    if len(leads) > 1 or any(
        len(lead) > 1 or d != (*lead, *p) for d, p in shapes for lead in leads
    ):
        raise ValueError(
            "`Projection`: the leaves of `directions` must have the shapes of those of `params`, "
            f"all with one more leading axis [K] or none: {[p for _, p in shapes]}, "
            f"got {[d for d, _ in shapes]}"
        )
    return jax.tree.unflatten(jax.tree.structure(params), [d for d, _ in pairs])


@dataclass(frozen=True)
class Sketch(_Together):
    """Random projections of the g_i to `dim` numbers each, with unbiased norms: [B, dim].

    A count sketch (Charikar, Chen and Farach-Colton 2002): every parameter has a random sign and a
    random place among the `dim`. The squared norm of a sketch, and the inner product of two, are
    unbiased for those of the gradients, with a standard error of at most sqrt(2/dim) |g_i| |g_j|.
    0 where w_i = 0.

    Attributes:
      dim: numbers for each example, 1 to 2^24 - 1 (else ValueError).
      key: random key; the same key gives the same projection, so sketches can be compared.

    Cost: the gradients of a few examples at a time are written out; memory of one more set of
    parameters.

    >>> import funcbackprop as fb, jax, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.Sketch(4, jax.random.key(0)))
    >>> print(measure(jnp.zeros(3), jnp.eye(3))[1].shape)
    (3, 4)
    """

    dim: int
    key: Any

    def __post_init__(self):
        if not isinstance(self.dim, int) or not 1 <= self.dim < 2**24:
            raise ValueError(f"`Sketch`: `dim` must be an int from 1 to 2^24, got {self.dim!r}")

    def operands(self, params):
        """+-(place + 1), as one number for each parameter."""
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(self.key, max(1, len(leaves)))
        codes = []
        for key, leaf in zip(keys, leaves, strict=False):
            place, sign = jax.random.split(key)
            places = jax.random.randint(place, jnp.shape(leaf), 1, self.dim + 1)
            codes.append(places * jax.random.rademacher(sign, jnp.shape(leaf), int))
        return (treedef.unflatten([c.astype(accumulator(c * 1.0).dtype) for c in codes]),)

    def _of_one(self, params):
        return (self.dim,)

    def reduce(self, g, operands, numbers):
        code = operands[0].reshape(-1)
        places, signs = jnp.abs(code).astype(int) - 1, jnp.sign(code)

        def sketch(grads):
            signed = grads.reshape(len(grads), -1) * signs[None].astype(real(grads.dtype))
            return jnp.zeros((self.dim, len(grads)), grads.dtype).at[places].add(signed.T).T

        return Part(sums=(yield g.each(sketch)))


@dataclass(frozen=True)
class PerExample(_Rows):
    """The gradients g_i themselves, written out: a tree like `params` with leaves [B, ...].

    0 where w_i = 0. Cost: B times the memory of the parameters.
    """

    def init(self, params):
        """The state of no examples."""
        return jax.tree.map(lambda p: jnp.zeros((0, *jnp.shape(p)), jnp.result_type(p)), params)

    def reduce(self, g, operands, numbers):
        return Part(elements=(yield g.each(lambda grads: grads)))

    def collect(self, parts, params, weights):
        def kept(part, p):
            g = part.elements.astype(jnp.result_type(p))
            return jnp.where(rows(weights > 0, g), g, jnp.zeros_like(g))

        return tree_of(params, list(map(kept, parts, jax.tree.leaves(params))))


@dataclass(frozen=True)
class Gram(_Together):
    """The inner products <g_i, g_j> of all pairs (real part): [B, B], symmetric.

    0 in the rows and columns of examples of weight 0. Needs all examples at once: it cannot be
    merged over micro-batches.

    Attributes:
      per_leaf: whether the leaves are kept apart, in a tree like `params`.

    Cost: from factors, B^2 T^2 (M + N) products for a weight [M, N] used at T positions; where that
    would be more, B^2 products for each parameter, with a part of the gradients written out at a
    time.

    >>> import funcbackprop as fb, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.dot(w, x)  # g_i = x_i
    >>> measure = fb.gradient_statistics(loss, fb.Gram())
    >>> print(measure(jnp.zeros(2), jnp.array([[1.0, 0.0], [2.0, 1.0]]))[1])
    [[1. 2.]
     [2. 5.]]
    """

    whole_batch: ClassVar[bool] = True
    per_leaf: bool = False

    def init(self, params):
        """The state of no examples."""
        return self._joined(
            jax.tree.map(lambda p: jnp.zeros((0, 0), accumulator(p).real.dtype), params)
        )

    def reduce(self, g, operands, numbers):
        return Part(sums=(yield g.gram))

    def collect(self, parts, params, weights):
        kept = weights > 0
        pairs = kept[:, None] & kept[None]
        return self._joined(tree_of(params, [jnp.where(pairs, p.sums, 0) for p in parts]))

    def merge(self, a, b):
        """The state that has examples; ValueError if both have."""
        return _of_one_batch("Gram", "have no inner products with each other", a, b)
