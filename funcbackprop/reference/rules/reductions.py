"""Reductions along axes, cumulative ones, and `reduce` with a program of the user."""

import math

import numpy as np

from ...graph import Literal, UnsupportedPrimitive, to_numpy
from . import arithmetic
from .kinds import constant, general, linear, unbroadcast


def spread(reduced, like, axes):
    """What was reduced over `axes`, broadcast back to the shape of `like`."""
    return np.broadcast_to(np.expand_dims(reduced, tuple(axes)), np.shape(like))


def _sum_pull(local, dys):
    return [spread(dys[0], local.x[0], local.p["axes"])]


# --- maximum and minimum: decided in the program's own precision, and replayed -------------------


def _shares_of(extreme, worst):
    """A `choose`: 1 / (number of ties) where x is the extreme value, 0 elsewhere."""

    def choose(p, x):
        axes, x = tuple(p["axes"]), x.astype(np.result_type(x, float))
        # NaN equals nothing: a reduction that meets one has shares 0 / 0 = NaN.
        ties = x == extreme(x, axis=axes, keepdims=True, initial=worst)
        return (ties / ties.sum(axis=axes, keepdims=True),)

    return choose


def _take_extreme(extreme, worst):
    """A `forward`: the extreme value among those that have a share."""

    def forward(p, choice, x):
        (share,) = choice
        return extreme(np.where(share == 0, worst, x), axis=tuple(p["axes"]), initial=worst)

    return forward


def _share_pull(local, dys):
    return [local.choice[0] * spread(dys[0], local.x[0], local.p["axes"])]


def _share_square(local, dys):
    return [local.choice[0] ** 2 * spread(dys[0], local.x[0], local.p["axes"])]


def _extreme_rule(extreme, worst):
    return general(
        _share_pull,
        formula="dx = dy where x is the extreme value, else 0",
        forward=_take_extreme(extreme, worst),
        choose=_shares_of(extreme, worst),
        square=_share_square,
        convention="n tied values get dy / n each; where one is NaN, all get NaN",
    )


# --- products: no division, so that zeros do no harm ----------------------------------------------


def _rows(x, axes):
    """x with `axes` in front, flattened into one."""
    order = _order(x, axes)
    n = math.prod(x.shape[k] for k in axes)
    return x.transpose(order).reshape(n, *(x.shape[k] for k in order[len(axes) :]))


def _from_rows(rows, x, axes):
    """The inverse of `_rows` for an array like x."""
    order = _order(x, axes)
    return rows.reshape([x.shape[k] for k in order]).transpose(np.argsort(order))


def _order(x, axes):
    return [*axes, *(k for k in range(x.ndim) if k not in axes)]


def _before(x):
    """Product of the entries before each one, along the leading axis."""
    return np.concatenate([np.ones_like(x[:1]), np.cumprod(x[:-1], axis=0)])


def _prod_pull(local, dys):
    """dx_s = (product of the entries before s) (product of those after s) dy."""
    (x,), axes = local.x, tuple(local.p["axes"])
    rows = _rows(x, axes)
    return [_from_rows(_before(rows) * _before(rows[::-1])[::-1] * dys[0], x, axes)]


# --- cumulative: with the axis in front, and in the order in which they run -----------------------


def _to_front(p, x):
    front = np.moveaxis(x, p["axis"], 0)
    return front[::-1] if p["reverse"] else front


def _from_front(p, x):
    return np.moveaxis(x[::-1] if p["reverse"] else x, 0, p["axis"])


def _accumulate(ufunc):
    return lambda p, x: _from_front(p, ufunc.accumulate(_to_front(p, x), axis=0))


def _backwards(coefficients, dy):
    """b_t = dy_t + coefficients_(t+1) b_(t+1), from the last t to the first."""
    b = np.array(dy)
    for t in reversed(range(len(b) - 1)):
        b[t] += coefficients[t + 1] * b[t + 1]
    return b


def _cumsum_pull(local, dys):
    dy = _to_front(local.p, dys[0])
    return [_from_front(local.p, np.cumsum(dy[::-1], axis=0)[::-1])]


def _cumprod_pull(local, dys):
    """dx_s = (product of the entries before s) b_s, b_s = dy_s + x_(s+1) b_(s+1)."""
    x, dy = _to_front(local.p, local.x[0]), _to_front(local.p, dys[0])
    return [_from_front(local.p, _before(x) * _backwards(x, dy))]


def _cumlogsumexp_pull(local, dys, size=lambda factor: factor):
    """dx_s = exp(x_s - y_s) b_s, b_s = dy_s + exp(y_s - y_(s+1)) b_(s+1)."""
    x, y, dy = (_to_front(local.p, v) for v in (local.x[0], local.y[0], dys[0]))
    own, kept = size(_ratio(x, y)), np.ones_like(dy)
    kept[1:] = size(_ratio(y[:-1], y[1:]))
    return [_from_front(local.p, own * _backwards(kept, dy))]


def _ratio(x, y):
    """exp(x - y), 1 where both are the same infinity."""
    return np.exp(np.where(x == y, 0, x - y))


def _squared(factor):
    return np.abs(factor) ** 2


def _pairwise(x, combine):
    """All y_t = combine(x_0, ..., x_t), by combining neighbours first: JAX's order.

    Neighbours are combined; of the results, half as many, the same is asked again, which gives the
    odd entries; each even entry is the odd one before it combined with its own x.
    """
    n = len(x)
    if n < 2:
        return x
    odd = _pairwise(combine(x[0 : n - 1 : 2], x[1::2]), combine)
    y = np.empty_like(x)
    y[0], y[1::2] = x[0], odd
    y[2::2] = combine(odd[: (n - 1) // 2], x[2::2])
    return y


def _pairwise_pull(dy, shares):
    """The transpose of `_pairwise`; `shares` are those of its calls of `combine`, in order."""
    n = len(dy)
    if n < 2:
        return dy
    first, second = shares.pop()
    d_odd = np.array(dy[1::2])
    d_odd[: (n - 1) // 2] += first * dy[2::2]
    dx = np.zeros_like(dy)
    dx[0], dx[2::2] = dy[0], second * dy[2::2]
    d_pair = _pairwise_pull(d_odd, shares)
    first, second = shares.pop()
    dx[0 : n - 1 : 2] += first * d_pair
    dx[1::2] = second * d_pair
    return dx


def _running_rule(rule):
    """The running maximum or minimum, from the rule of the maximum or minimum of two."""

    def choose(p, x):
        shares = []

        def combine(a, b):
            shares.extend(rule.choose(p, a, b))
            return rule.forward(p, shares[-1:], a, b)

        _pairwise(_to_front(p, x), combine)
        return tuple(shares)

    def forward(p, choice, x):
        shares = iter(choice)
        combine = lambda a, b: rule.forward(p, (next(shares),), a, b)  # noqa: E731
        return _from_front(p, _pairwise(_to_front(p, x), combine))

    def pull(local, dys, power=1):
        shares = [(s**power, (1 - s) ** power) for s in local.choice]
        return [_from_front(local.p, _pairwise_pull(_to_front(local.p, dys[0]), shares))]

    return general(
        pull,
        formula="dx_s = sum of the dy_t whose extreme value x_s is",
        forward=forward,
        choose=choose,
        square=lambda local, dys: pull(local, dys, power=2),
        convention="a tie gives one half to each, in the order in which JAX combines: neighbours "
        "first",
    )


# --- reduce: its program runs on the tape, on whole arrays ----------------------------------------


ROWS = linear(
    lambda local, dys: [_from_rows(dys[0], local.x[0], local.p["axes"])],
    formula="dx = reshape(dy)",
    forward=lambda p, x: _rows(x, p["axes"]),
    exact=True,
)
HALVES = linear(
    lambda local, dys: [np.concatenate([dys[0], dys[2], dys[1]])],
    formula="dx = concatenate(dys)",
    # The first half, the second half, and the entry between them if their number is odd.
    forward=lambda p, x: (x[: len(x) // 2], x[(len(x) + 1) // 2 :], x[len(x) // 2 :][: len(x) % 2]),
    exact=True,
)
JOIN = linear(
    lambda local, dys: np.split(dys[0], [len(local.x[0])]),
    formula="dx, dy = split(dz)",
    forward=lambda p, x, y: np.concatenate([x, y]),
    exact=True,
)
ONLY = linear(
    lambda local, dys: [dys[0][None]], formula="dx = [dy]", forward=lambda p, x: x[0], exact=True
)
BROADCAST = linear(
    lambda local, dys: [unbroadcast(dys[0], local.x[0].shape)],
    formula="dx = sum(dy)",
    forward=lambda p, x: np.broadcast_to(x, p["shape"]),
    exact=True,
)

# Of a scalar, these give the same scalar.
_SAME = {"broadcast_in_dim", "reshape", "squeeze", "transpose"}


def broadcast(tape, equation, value, shape):
    """A value in this shape, on the tape."""
    if np.shape(value.own) == shape:
        return value
    return tape.part(equation, BROADCAST, [value], shape=shape)[0]


def run_entrywise(tape, equation, program, inputs):
    """Run a program of scalars on arrays of one shape: primitives act entry by entry.

    Literals and what is computed from constants are broadcast, since JAX's primitives are not
    evaluated on an array and a scalar.
    """
    shape = np.shape(inputs[0].own)
    arrays = dict(zip(program.inputs, inputs, strict=True))
    others = {variable: tape.constant(to_numpy(value)) for variable, value in program.constants}

    def read(atom):
        return tape.constant(atom.value) if isinstance(atom, Literal) else others[atom]

    def read_array(atom):
        return arrays[atom] if atom in arrays else broadcast(tape, equation, read(atom), shape)

    for inner in program.equations:
        if arrays.keys().isdisjoint(inner.inputs):
            outputs = tape.evaluate(inner, [read(atom) for atom in inner.inputs])
            others.update(zip(inner.outputs, outputs, strict=True))
            continue
        _check_scalars(equation, inner)
        values = [read_array(atom) for atom in inner.inputs]
        outputs = values[:1] if inner.name in _SAME else tape.evaluate(inner, values)
        arrays.update(zip(inner.outputs, outputs, strict=True))
    return [read_array(atom) for atom in program.outputs]


def _check_scalars(equation, inner):
    scalars = all(atom.shape == () for atom in (*inner.inputs, *inner.outputs))
    entrywise = not inner.programs or inner.name.startswith("jax:")
    if not scalars or not entrywise or inner.name == "dot_general":
        raise UnsupportedPrimitive(
            f"the program of `{equation.name}` at {equation.source} holds `{inner.name}`, which "
            "does not act on scalars entry by entry. funcbackprop runs such a program on whole "
            "arrays: write it with arithmetic on scalars and `jnp.where`."
        )


def reduce(tape, equation, inputs):
    """initial (+) (x_0 (+) ... (+) x_n), where (+) is a program, by halving."""
    half, program = len(inputs) // 2, equation.programs["jaxpr"]
    operands, initial = inputs[:half], inputs[half:]
    axes = tuple(equation.params["dimensions"])
    rows = [tape.part(equation, ROWS, [x], axes=axes)[0] for x in operands]
    while len(rows[0].own) > 1:
        split = [tape.part(equation, HALVES, [x]) for x in rows]
        first, second, between = zip(*split, strict=True)
        rows = run_entrywise(tape, equation, program, [*first, *second])
        if len(between[0].own):
            pairs = zip(rows, between, strict=True)
            rows = [tape.part(equation, JOIN, pair)[0] for pair in pairs]
    shape = rows[0].own.shape[1:]
    result = [broadcast(tape, equation, x, shape) for x in initial]
    if not len(rows[0].own):
        return result
    only = [tape.part(equation, ONLY, [x])[0] for x in rows]
    return run_entrywise(tape, equation, program, [*result, *only])


_INDEX = "0: an index"

RULES = {
    "reduce_sum": linear(
        _sum_pull,
        formula="dx = dy, broadcast over the reduced axes",
        forward=lambda p, x: np.sum(x, axis=tuple(p["axes"])),
    ),
    "reduce_max": _extreme_rule(np.max, -np.inf),
    "reduce_min": _extreme_rule(np.min, np.inf),
    # The partial derivatives are products of other entries: their squares are those of the squares.
    "reduce_prod": linear(
        _prod_pull,
        formula="dx_s = (product of all entries but x_s) dy",
        forward=lambda p, x: np.prod(x, axis=tuple(p["axes"])),
        operands=(0,),
    ),
    "cumsum": linear(
        _cumsum_pull,
        formula="dx = cumulative sum of dy from the other end",
        forward=_accumulate(np.add),
    ),
    "cumprod": linear(
        _cumprod_pull,
        formula="dx_s = x_0 ... x_(s-1) b_s, b_s = dy_s + x_(s+1) b_(s+1)",
        forward=_accumulate(np.multiply),
        operands=(0,),
    ),
    "cummax": _running_rule(arithmetic.RULES["max"]),
    "cummin": _running_rule(arithmetic.RULES["min"]),
    "cumlogsumexp": general(
        _cumlogsumexp_pull,
        formula="dx_s = exp(x_s - y_s) b_s, b_s = dy_s + exp(y_s - y_(s+1)) b_(s+1)",
        square=lambda local, dys: _cumlogsumexp_pull(local, dys, _squared),
        convention="the same infinity in x and y counts as x = y",
    ),
    "argmax": constant(_INDEX, lambda p, x: np.argmax(x, axis=p["axes"][0])),
    "argmin": constant(_INDEX, lambda p, x: np.argmin(x, axis=p["axes"][0])),
    "reduce_and": constant("0: integers"),
    "reduce_or": constant("0: integers"),
    "reduce_xor": constant("0: integers"),
}

STRUCTURED = {"reduce": reduce}

FORMULAS = {"reduce": "the derivatives of its program, which combines halves of the array"}
