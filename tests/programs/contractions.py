"""A parameter in a `dot_general`, in many layouts of its axes."""

import jax
import jax.numpy as jnp
from cases import Case

from .random import normal


def _einsum(spec, x, w):
    """sum sin(einsum(spec, x, w)) for an example and a parameter of these shapes."""

    def make(rng):
        def loss(p, example):
            return jnp.sum(jnp.sin(jnp.einsum(spec, example, p["w"])))

        return loss, {"w": normal(rng, *w)}, lambda n: normal(rng, n, *x)

    return make


def _bilinear(rng):
    def loss(p, x):
        return jnp.tanh(jnp.einsum("m,mn,n->", x, p, x)) ** 2

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 3)


def _learned_queries(rng):
    """Queries that all examples share: a product of two parameters."""
    params = {"queries": normal(rng, 2, 3), "key": normal(rng, 3, 4), "value": normal(rng, 4, 3)}

    def loss(p, x):
        scores = (p["queries"] @ p["key"]) @ x.T
        return jnp.sum(jnp.sin(jax.nn.softmax(scores) @ (x @ p["value"])))

    return loss, params, lambda n: normal(rng, n, 5, 4)


def _low_rank(rng):
    """The weight is an outer product of two parameters, and a diagonal."""
    params = {"u": normal(rng, 4, 1), "v": normal(rng, 1, 3), "d": normal(rng, 4)}

    def loss(p, x):
        return jnp.sum(jnp.sin((x * p["d"]) @ (p["u"] @ p["v"])))

    return loss, params, lambda n: normal(rng, n, 4)


def _tensor_train(rng):
    params = [normal(rng, 2, 3), normal(rng, 3, 2, 3), normal(rng, 3, 2)]

    def loss(p, x):
        y = jnp.einsum("ar,rbs,sc,abc->", *p, jnp.reshape(x, (2, 2, 2)))
        return jnp.sin(y)

    return loss, params, lambda n: normal(rng, n, 8)


def _diagonal(rng):
    def loss(p, x):
        return jnp.sum(jnp.sin(jnp.diagonal(p) * x)) + jnp.trace(p) * x[0]

    return loss, normal(rng, 3, 3), lambda n: normal(rng, n, 3)


CASES = {
    "positions": Case(_einsum("tm,mn->tn", (5, 3), (3, 2))),
    "positions, transposed weight": Case(_einsum("tm,nm->nt", (5, 3), (2, 3))),
    "batch axis of a weight": Case(_einsum("gtm,gmn->tgn", (2, 3, 4), (2, 4, 2))),
    "two batch axes": Case(_einsum("ghm,hmgn->gnh", (2, 3, 2), (3, 2, 2, 2))),
    "ellipsis": Case(_einsum("...m,mn->...n", (2, 3, 4), (4, 3))),
    "several contracted axes": Case(_einsum("mtk,kmn->tn", (2, 3, 2), (2, 2, 3))),
    "several free axes": Case(_einsum("tm,hmk->htk", (3, 4), (2, 4, 2))),
    "no position": Case(_einsum("m,hmk->kh", (3,), (2, 3, 2))),
    "outer product with the example": Case(_einsum("m,n->mn", (3,), (2,))),
    "bilinear": Case(_bilinear),
    "learned queries": Case(_learned_queries),
    "low rank": Case(_low_rank),
    "tensor train": Case(_tensor_train),
    "diagonal": Case(_diagonal),
}
