"""Small programs with which `tune` measures: answers of the real engine about one gradient."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..per_example import SquaredNorms, costs, factored, gradient_statistics
from ..per_example.entries import by_entries
from ..per_example.kernels import kernels
from ..per_example.terms import Gradient, Term
from . import clock


@contextlib.contextmanager
def changed(**constants: float) -> Iterator[None]:
    """Constants of `costs` with other values, until the block ends.

    >>> with changed(ENTRY=1):
    ...     print(costs.ENTRY)
    1
    >>> costs.ENTRY == 1
    False
    """
    before = {name: getattr(costs, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(costs, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(costs, name, value)


# --- gradients ------------------------------------------------------------------------------------


class Product(NamedTuple):
    """g_i = sum_t u_it (x) v_it for B examples, T positions and a weight [M, N]."""

    examples: int
    positions: int
    rows: int
    columns: int

    def __str__(self):
        return "B {}, T {}, M {}, N {}".format(*self)

    @property
    def bytes(self) -> int:
        """Of the entries of one example."""
        return 4 * self.rows * self.columns

    def case(self) -> "Case":
        loss = lambda w, x: jnp.sum((x[0] @ w) * x[1])  # noqa: E731
        u, v = (self.examples, self.positions, self.rows), (self.positions, self.columns)
        return _case(loss, (self.rows, self.columns), (u, (self.examples, *v)))


class Convolution(NamedTuple):
    """Of B images, 3x3, whose patches take about `4 side^2 9 channels` bytes an image."""

    examples: int
    side: int
    channels: int
    features: int

    def __str__(self):
        return "B {}, 3x3, {}x{}x{} to {}".format(
            *(self.examples, self.side, self.side, self.channels, self.features)
        )

    def case(self) -> "Case":
        def loss(w, x):
            numbers = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(x[0][None], w, (1, 1), "SAME", dimension_numbers=numbers)
            return jnp.sum(y[0] * x[1])

        image = self.examples, self.side, self.side
        weight = (3, 3, self.channels, self.features)
        return _case(loss, weight, ((*image, self.channels), (*image, self.features)))


class Case(NamedTuple):
    """The gradients of a batch with respect to one weight, as the engine keeps them."""

    terms: tuple[Term, ...]
    shape: tuple[int, ...]

    def program(self, answer: Callable[[Gradient], Any], **constants: float) -> clock.Call:
        """`answer` compiled, under these constants."""
        weights = jnp.ones(len(self.terms[0].v))

        def f(terms, weights):
            return answer(Gradient(terms, self.shape, weights, costs.GROUP_BYTES))

        with changed(**constants):
            program = jax.jit(f).lower(self.terms, weights).compile()
        return functools.partial(program, self.terms, weights)


def _case(loss, shape, shapes) -> Case:
    """The case of a loss of one weight; the factors of its gradient are random."""
    seen: list[Gradient] = []

    def note(leaf, g, times):
        seen.append(g)
        return lambda choices: None

    def taken(w, batch):
        given = gradient_statistics(loss, SquaredNorms()).given(w, batch, None)
        return factored.take([SquaredNorms()], given, None, [None], note)

    like = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    jax.eval_shape(taken, like(shape), tuple(map(like, shapes)))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return Case(jax.tree.map(draw, seen[0].terms), shape)


# --- answers --------------------------------------------------------------------------------------


def contraction(g: Gradient) -> Any:
    return kernels(g, g.own_mean)[0].run()


def positions(g: Gradient) -> Any:
    return kernels(g, g.sq_norms)[0].run()


def squares(g: Gradient) -> Any:
    return kernels(g, g.deviations(False))[0].run()


def variance(g: Gradient) -> Any:
    return by_entries(g, [g.deviations(False)])


def variance_and_norms(g: Gradient) -> Any:
    return by_entries(g, [g.deviations(False), g.sq_norms])


def centred(g: Gradient) -> Any:
    return by_entries(g, [g.deviations(True)])
