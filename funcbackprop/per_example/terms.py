"""A gradient that is kept factored: a sum of terms, and the questions it can be asked."""

import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp

from . import asks
from .factors import DENSE, Form
from .layouts import Layout, Loop
from .numbers import real
from .unfold import Unfolding, unfolding


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("u", "v", "steps"),
    meta_fields=("form", "equation", "shape"),
)
@dataclasses.dataclass(frozen=True)
class Term:
    """One product, and what happens to it on its way.

    Inside the program it belongs to one example. Where statistics are taken, u and v have a leading
    axis of examples.

    Attributes:
      form, equation: how the product is formed, and where. Of entries that are larger than what
        they were made of, the equation that wrote them out.
      shape: of the array that it stands for, after the steps.
      u, v: its operands, with an axis in front for every loop on the way.
      steps: layouts and loops, in order.
    """

    form: Form
    equation: Any
    shape: tuple[int, ...]
    u: Any
    v: Any
    steps: tuple[Layout | Loop, ...] = ()

    def laid_out(self, layout: Layout) -> "Term":
        shape = jax.eval_shape(layout, jax.ShapeDtypeStruct(self.shape, self.v.dtype)).shape
        return dataclasses.replace(self, shape=shape, steps=(*self.steps, layout))

    def looped(self, kind: Loop, length: int) -> "Term":
        """What a loop makes of it, whose iterations have put an axis in front of u and v."""
        shape = (length, *self.shape) if kind.stacks else self.shape
        return dataclasses.replace(self, shape=shape, steps=(*self.steps, kind))

    def scaled(self, factor: Any) -> "Term":
        """The term times a number."""
        v = self.v * jnp.asarray(factor).astype(real(self.v.dtype))
        return dataclasses.replace(self, v=v)

    @property
    def known(self) -> bool:
        """Whether it is an array of entries."""
        return self.form is DENSE and not self.steps

    @property
    def permutes(self) -> bool:
        """Whether its steps give every entry a place of its own and leave no others."""
        return all(step.permutes for step in self.steps)

    @functools.cached_property
    def unfolded(self) -> Unfolding | None:
        """u and v have a leading axis of examples."""
        return unfolding(self)

    def written_out(self) -> "Term":
        """The same entries without steps, where that takes no more memory; with a leading axis of
        examples."""
        stacked = all(not isinstance(step, Loop) or step.stacks for step in self.steps)
        if self.form is not DENSE or not stacked or not self.permutes:
            return self
        layouts = [step for step in self.steps if isinstance(step, Layout)]
        return dataclasses.replace(
            self, v=functools.reduce(lambda x, layout: layout(x), layouts, self.v), steps=()
        )

    @property
    def flops(self) -> int:
        """To write the gradient of one example out; u and v have a leading axis of examples."""
        return self.form.flops(self) if self.unfolded is None else self.unfolded.flops

    def total(self, u: Any, v: Any) -> jax.Array:
        """The sum over a leading axis; linear in v."""
        return _total(self.form, self.equation, self.steps, u, v)


def _total(form, equation, steps, u, v):
    if not steps:
        return form.total(equation, u, v)
    *before, last = steps
    inner = functools.partial(_total, form, equation, before)
    if isinstance(last, Layout):
        return last(inner(u, v))
    if last.stacks:
        return jax.vmap(inner, in_axes=1)(u, v)
    return inner(*(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in (u, v)))


def dense(x: Any, written: Any = None) -> Term:
    """The term of one example's gradient whose entries are known."""
    return Term(DENSE, written, jnp.shape(x), jnp.zeros((0,)), x)


def all_dense(x: jax.Array) -> Term:
    """The term of the gradients of all examples, written out: [B, *shape]."""
    return Term(DENSE, None, x.shape[1:], jnp.zeros((len(x), 0)), x)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradients of B examples with respect to one parameter leaf, or to a part of one.

    Its methods make questions (`asks`). A statistic yields them and is sent the answers; those of
    all statistics are answered together.

    Attributes:
      terms: they add up to the gradient; u and v have a leading axis [B].
      shape: of the leaf.
      weights: [B].
      limit: bytes of entries that may be written at a time (but one example).
      known_mean: the mean gradient of the batch, where these are some examples of it.
    """

    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    weights: Any
    limit: int
    known_mean: Any = None

    @functools.cached_property
    def dtype(self) -> Any:
        """float32 or wider."""
        return jnp.result_type(*(t.v.dtype for t in self.terms))

    @property
    def size(self) -> int:
        """B."""
        return len(self.weights)

    @property
    def weight(self) -> jax.Array:
        """The total weight."""
        return jnp.sum(self.weights)

    @property
    def shares(self) -> jax.Array:
        """w_i / sum_i w_i: [B]; 0 if all weights are 0."""
        return self.averaged(self.weights)

    def averaged(self, summed: jax.Array) -> jax.Array:
        """A weighted sum over the examples as a mean; 0 if all weights are 0."""
        return summed / jnp.where(self.weight > 0, self.weight, 1).astype(real(summed.dtype))

    @functools.cached_property
    def own_mean(self) -> asks.Ask:
        """Of these examples."""
        return asks.Mean()

    def mean(self) -> Generator[asks.Ask, Any, Any]:
        """The weighted mean gradient: [*shape]; of the whole batch, if that is known."""
        return (yield self.own_mean) if self.known_mean is None else self.known_mean

    def weighted_sum(self, c: jax.Array) -> asks.Ask:
        return asks.WeightedSum(c.astype(real(self.dtype)))

    def mean_of(self, f: Callable) -> asks.Ask:
        return asks.MeanOf(f)

    def deviations(self, centred: bool, scale: Any = 1.0) -> asks.Ask:
        return asks.Deviations(centred, scale)

    @functools.cached_property
    def sq_norms(self) -> asks.Ask:
        return asks.SquaredNorms()

    def sq_distances(self, d: jax.Array) -> asks.Ask:
        return asks.SquaredDistances(d.astype(self.dtype))

    def inner(self, d: jax.Array) -> asks.Ask:
        return asks.Inner(d.astype(self.dtype))

    @functools.cached_property
    def gram(self) -> asks.Ask:
        return asks.Gram()

    def fold(self, f: Callable) -> asks.Ask:
        return asks.Fold(f)

    def each(self, f: Callable) -> asks.Ask:
        return asks.Each(f)


def product_of(g: Gradient) -> Any:
    """The `Unfolding` of the one product that a gradient is, if its entries are those of the leaf
    in some order; or None."""
    unfolded = g.terms[0].unfolded
    return unfolded if len(g.terms) == 1 and unfolded is not None and unfolded.permutes else None


def factors_of(g: Gradient) -> tuple[Any, Any]:
    """u [B, G, T, M], v [B, G, T, N] of a gradient that is one product."""
    (term,) = g.terms
    return product_of(g).factors(term.u, term.v)
