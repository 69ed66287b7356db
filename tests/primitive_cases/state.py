"""Cases for funcbackprop.reference.rules.state."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import core
from jax._src.state.discharge import run_state

from .case import Case, normal

X, Y = normal(3, 4), normal(4, seed=1)
I = np.array([2, 0, 2])


def new_ref(x):
    return core.new_ref(x)


def reading(*index):
    """x -> r[index] of a mutable array with the contents 2 x."""
    return lambda x: jnp.sin(new_ref(2 * x)[index])


def writing(*index):
    """(x, y) -> the array after r[index] = y."""

    def write(x, y):
        ref = new_ref(x)
        ref[index] = jnp.broadcast_to(y, ref[index].shape)
        return jnp.sin(ref[...])

    return write


def adding(*index):
    def add(x, y):
        ref = new_ref(x)
        jax.ref.addupdate(ref, index, jnp.broadcast_to(y, ref[index].shape))
        return jnp.sin(ref[...])

    return add


INDICES = {
    "a row": (1,),
    "all": (...,),
    "all, written out": (slice(None), slice(None)),
    "an entry": (2, 3),
    "every second": (slice(0, 3, 2), slice(1, 3)),
    "negative": (-1,),
    "an array": (np.array([2, 0]),),
    "an array, then a slice": (np.array([2, 0]), slice(1, 4)),
    "an array after a slice": (slice(0, 2), np.array([[2, 0], [1, 3]])),
    "two arrays": (np.array([2, 0]), np.array([1, 1])),
    "an array and a number": (np.array([2, 0]), 1),
    "none": (slice(0, 0),),
}


def _expect_last(x, y, dy):
    """Rows 2, 0, 2 written: of the two writes to row 2 the last stands."""
    dx = np.array(dy)
    dx[I] = 0
    return dx, np.stack([np.zeros(4), dy[0], dy[2]])


def _write_rows(x, y):
    ref = new_ref(x)
    ref[jnp.array(I)] = y
    return ref[...]


def swapped(x, y):
    ref = new_ref(x * x)
    before = jax.ref.swap(ref, 1, y)
    return before * y, jax.ref.swap(ref, ..., x), jax.ref.get(ref, 2)


@jax.jit
def last_index(x, y):
    """An index that is known when the program runs."""
    ref = new_ref(x)
    i = jnp.argmax(y)
    ref[:, i] = ref[:, i] * y[:3]
    ref[i - 9] = ref[i + 9] * y
    return ref[...]


def in_scan(x, y):
    ref = new_ref(x)

    def body(carry, t):
        ref[t] = ref[t] * carry + y
        return carry + ref[t, 0], ref[0]

    return ref[...], lax.scan(body, 1.0 + y[0], jnp.arange(3))


def in_while(x, y):
    ref = new_ref(x)

    def body(t):
        ref[t] = jnp.sin(ref[t] * y)
        return t + 1

    lax.while_loop(lambda t: t < 3, body, 0)
    return ref[...]


def in_cond(x, y):
    ref = new_ref(x)

    def write():
        ref[0] = ref[1] * y

    def leave():
        ref[1] = y

    lax.cond(x[0, 0] > -9, write, leave)
    return ref[...]


def in_jit(x, y):
    ref = new_ref(x)

    @jax.jit
    def write(ref, y):
        ref[0] = ref[1] * y
        return ref[2]

    return write(ref, y), ref[...]


def in_scan_of_cond(x, y):
    ref = new_ref(x)

    def body(_, t):
        def double():
            ref[t] = 2 * ref[t] * y

        lax.cond(t % 2 == 0, double, lambda: None)
        return None, None

    lax.scan(body, None, jnp.arange(3))
    return ref[...]


def nowhere(x, y):
    """Entries of an index array that are out of bounds."""
    ref = new_ref(x)
    ref[jnp.array([0, 7])] = jnp.stack([y, y])
    jax.ref.addupdate(ref, (jnp.array([1, 9]),), jnp.stack([y, 2 * y]))
    return ref[...], ref[jnp.array([0, 7])]


def integers(n, x):
    ref = new_ref(n)
    ref[0] = ref[1] * 2
    return x * ref[...]


def keys(x):
    ref = new_ref(jax.random.split(jax.random.key(0), 3))
    ref[0] = ref[1]
    return x * jax.random.normal(ref[...][0], (2,)) * jax.random.normal(ref[2])


def mixed(refs):
    x, y = refs
    y[...] = x[0] * y[...]
    x[0] = y[...] * y[1]


def frozen(x, y):
    ref = new_ref(x)
    ref[0] = y
    return jax.ref.freeze(ref) * 2 if hasattr(jax, "ref") else core.freeze(ref) * 2


def _functional(x, y):
    y = x[0] * y
    return x.at[0].set(y * y[1]), y


def _pull_of(f):
    return lambda *args: jax.vjp(f, *args[:-1])[1](args[-1])


CASES = {
    **{f"read, {n}": Case(reading(*i), (X,)) for n, i in INDICES.items()},
    **{f"write, {n}": Case(writing(*i), (X, np.array(2.5))) for n, i in INDICES.items()},
    **{f"add, {n}": Case(adding(*i), (X, np.array(2.5))) for n, i in INDICES.items()},
    "rank 0": Case(writing(...), (np.array(1.0), np.array(2.0))),
    "rank 4": Case(writing(1, slice(None), 0), (normal(2, 1, 3, 2), normal(1, 2))),
    "empty": Case(lambda x: 2 * core.freeze(new_ref(x)), (normal(0, 2),)),
    "read, rows twice": Case(reading(I), (X,)),
    "add, rows twice": Case(adding(I), (X, Y)),
    "write, rows twice": Case(
        _write_rows, (X, normal(3, 4, seed=2)), jax=False, expect=_expect_last
    ),
    "swap": Case(swapped, (normal(4, 4), Y)),
    "index of the program": Case(last_index, (X, Y)),
    "out of bounds": Case(
        nowhere,
        (X, Y),
        jax=False,
        expect=_pull_of(
            lambda x, y: (lambda z: (z, z[np.array([0, 2])]))(x.at[0].set(y).at[1].add(y))
        ),
    ),
    "scan": Case(in_scan, (X, Y)),
    "while": Case(
        in_while,
        (X, Y),
        jax=False,
        expect=_pull_of(lambda x, y: jnp.sin(x * y[None])),
    ),
    "cond": Case(in_cond, (X, Y), jax=False, expect=_pull_of(lambda x, y: x.at[0].set(x[1] * y))),
    "jit": Case(in_jit, (X, Y)),
    "scan of cond": Case(
        in_scan_of_cond,
        (X, Y),
        jax=False,
        expect=_pull_of(lambda x, y: x.at[::2].multiply(2 * y)),
    ),
    "in a gradient": Case(
        jax.grad(lambda x: jnp.sum(in_jit(x, Y)[1] ** 3)),
        (X,),
        jax=False,
        expect=_pull_of(jax.grad(lambda x: jnp.sum(x.at[0].set(x[1] * Y) ** 3))),
    ),
    "vmap": Case(jax.vmap(writing(1)), (normal(2, 3, 4), normal(2, 4))),
    "vmap of indices": Case(jax.vmap(lambda x, i: new_ref(x)[i] * 2), (X, np.array([0, 3, 1]))),
    "checkpoint": Case(jax.checkpoint(lambda x: new_ref(x)[1] * x[0]), (X,)),
    "complex": Case(lambda x, y: writing(1)(x + 1j * x, y * 1j), (X, Y)),
    "integers": Case(integers, (np.arange(3), normal(3))),
    "random keys": Case(keys, (normal(2),), narrow=False),
    "freeze": Case(frozen, (X, Y)),
    "run_state": Case(
        lambda x, y: run_state(mixed)((x, y)), (X, Y), jax=False, expect=_pull_of(_functional)
    ),
    "accum_grad_in_ref": Case(
        lambda x: core.accum_grad_in_ref(2 * x), (X,), jax=False, expect=lambda x, dy: (2 * dy,)
    ),
}

if hasattr(jax, "empty_ref"):

    @jax.jit
    def _started_empty(x):
        ref = jax.empty_ref(jax.ShapeDtypeStruct(x.shape, x.dtype))
        ref[...] = 3 * x
        found = ref[0]
        jax.free_ref(ref)
        return found

    CASES["empty_ref"] = Case(
        _started_empty,
        (X,),
        jax=False,
        expect=lambda x, dy: (np.concatenate([3 * np.asarray(dy)[None], np.zeros((2, 4))]),),
    )
