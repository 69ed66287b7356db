"""Cases for funcbackprop.reference.rules.collectives."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import core
from jax._src.lax import parallel
from jax.sharding import NamedSharding, PartitionSpec

from .case import Case, cplx, normal

X = normal(2, 3)
DEVICE = np.array(jax.devices("cpu")[:1])
MESH = jax.sharding.Mesh(DEVICE, ("i",))
ROWS, WHOLE = PartitionSpec("i"), PartitionSpec()


def mapped(f, inputs=ROWS, outputs=ROWS, check=True):
    """f on the only device, between functions outside of it."""
    run = jax.shard_map(f, mesh=MESH, in_specs=inputs, out_specs=outputs, check_vma=check)
    return lambda *x: jax.tree.map(jnp.sin, run(*(2 * v for v in x)))


def _same(x, dy):
    """What all collectives are here: sin(2 x)."""
    return (2 * np.cos(2 * x) * np.asarray(dy),)


def varying(x):
    return lax.pcast(x, "i", to="varying") if hasattr(lax, "pcast") else lax.pvary(x, "i")


def in_scan(x):
    def body(carry, row):
        carry = carry + lax.psum(row * carry, "i")
        return carry, carry * row

    return lax.scan(body, jnp.ones(3, x.dtype), x)[0]


def weights_and_batch(w, x):
    """Gradients inside of `shard_map`, summed over the devices: data-parallel training."""
    loss = lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2)  # noqa: E731
    return lax.psum(jax.grad(loss)(w, x), "i")


def _two_sums(x):
    return lax.psum((x, 2 * x), "i")


CASES = {
    "shard_map": Case(mapped(lambda x: x * 2), (X,)),
    "shard_map, two arguments": Case(mapped(lambda w, x: x @ w, (WHOLE, ROWS)), (normal(3, 2), X)),
    "shard_map in jit and vmap": Case(
        jax.jit(jax.vmap(mapped(lambda x: lax.pmean(x, "i"), outputs=WHOLE))), (normal(2, 2, 3),)
    ),
    "shard_map, gradient inside": Case(
        mapped(weights_and_batch, (WHOLE, ROWS), WHOLE, check=False), (normal(3, 2), X)
    ),
    "shard_map, scan inside": Case(mapped(in_scan, outputs=WHOLE, check=False), (X,)),
    "psum": Case(mapped(lambda x: lax.psum(x, "i"), outputs=WHOLE), (X,)),
    "psum, complex": Case(mapped(lambda x: lax.psum(x, "i"), outputs=WHOLE), (cplx(2, 3),)),
    "psum, unchecked": Case(mapped(lambda x: lax.psum(x, "i"), outputs=WHOLE, check=False), (X,)),
    "psum of a tuple": Case(mapped(_two_sums, outputs=(WHOLE, WHOLE)), (X,)),
    "psum of a tuple, unchecked": Case(
        mapped(_two_sums, outputs=(WHOLE, WHOLE), check=False), (X,)
    ),
    "psum of integers": Case(mapped(lambda x: x * lax.psum(jnp.sum(jnp.ones(2, int)), "i")), (X,)),
    "pmean": Case(mapped(lambda x: lax.pmean(x, "i"), outputs=WHOLE), (X,)),
    "pmax": Case(mapped(lambda x: lax.pmax(x, "i"), outputs=WHOLE), (X,), jax=False, expect=_same),
    "pmin": Case(mapped(lambda x: lax.pmin(x, "i"), outputs=WHOLE), (X,), jax=False, expect=_same),
    "ppermute": Case(mapped(lambda x: lax.ppermute(x, "i", [(0, 0)])), (X,)),
    "ppermute, nothing sent": Case(mapped(lambda x: x + lax.ppermute(x, "i", [])), (X,)),
    "pshuffle": Case(mapped(lambda x: lax.pshuffle(x, "i", [0])), (X,)),
    "pvary": Case(mapped(lambda x, w: x * varying(w)[None], (ROWS, WHOLE)), (X, normal(3, seed=1))),
    "axis_index": Case(mapped(lambda x: x * (1 + lax.axis_index("i"))), (X,)),
    **{
        f"all_gather along {axis}, tiled: {tiled}": Case(
            mapped(lambda x, a=axis, t=tiled: lax.all_gather(x, "i", axis=a, tiled=t)), (X,)
        )
        for axis in (0, 1)
        for tiled in (True, False)
    },
    **{
        f"psum_scatter along {axis}": Case(
            mapped(
                lambda x, a=axis: lax.psum_scatter(jnp.expand_dims(x, a), "i", scatter_dimension=a)
            ),
            (X,),
        )
        for axis in (0, 1)
    },
    "psum_scatter, tiled": Case(mapped(lambda x: lax.psum_scatter(x, "i", tiled=True)), (X,)),
    "all_to_all, tiled": Case(mapped(lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True)), (X,)),
    "all_to_all": Case(mapped(lambda x: lax.all_to_all(x[None], "i", 0, 0)[0]), (X,)),
    # JAX's own rule fails with a cotangent of the wrong shape.
    "all_to_all to another axis": Case(
        mapped(lambda x: lax.all_to_all(x[None], "i", 0, 1)[:, 0]), (X,), jax=False, expect=_same
    ),
    **{
        f"{f.__name__} of vmap": Case(jax.vmap(lambda x, f=f: f(x, "i") * x, axis_name="i"), (X,))
        for f in (lax.psum, lax.pmean)
    },
    "all_gather of vmap": Case(
        jax.vmap(lambda x: lax.all_gather(x, "i") * x[None], axis_name="i"), (X,)
    ),
    **{
        f"{f.__name__} of vmap": Case(
            jax.vmap(lambda x, f=f: f(x, "i") * x, axis_name="i"),
            (np.array([[1.0, 2.0, 4.0], [1.0, 3.0, -1.0]]),),
            jax=False,
            expect=lambda x, dy, g=g: jax.vjp(lambda x: g(x, 0, keepdims=True) * x, x)[1](dy),
        )
        for f, g in {lax.pmax: jnp.max, lax.pmin: jnp.min}.items()
    },
    "axis_index of vmap": Case(jax.vmap(lambda x: x * lax.axis_index("i"), axis_name="i"), (X,)),
    "ppermute of vmap": Case(
        jax.vmap(lambda x: lax.ppermute(x, "i", [(0, 1), (1, 0)]) * x, axis_name="i"), (X,)
    ),
}


if hasattr(parallel, "all_gather_invariant"):
    CASES["all_gather_invariant"] = Case(
        mapped(lambda x: parallel.all_gather_invariant(x, "i", tiled=True), outputs=WHOLE), (X,)
    )


def explicit(f, inputs=ROWS, outputs=ROWS):
    """As `mapped`, on a mesh whose axis is part of the types of the arrays."""
    mesh = jax.sharding.Mesh(DEVICE, ("i",), axis_types=(jax.sharding.AxisType.Explicit,))

    @jax.jit
    def run(x):
        x = jax.device_put(jnp.sin(x), NamedSharding(mesh, inputs))
        return jax.shard_map(f, mesh=mesh, in_specs=inputs, out_specs=outputs)(x)

    return run


def to(x, kind):
    return lax.pcast(x, "i", to=kind)


if hasattr(parallel, "unreduced_psum"):
    CASES |= {
        "unreduced_psum": Case(
            explicit(lambda x: parallel.unreduced_psum(to(x, "unreduced"), "i"), outputs=WHOLE),
            (X,),
        ),
        "unreduced_reduce_scatter": Case(
            explicit(
                lambda x: parallel.unreduced_psum_scatter(to(x, "unreduced"), "i", tiled=True)
            ),
            (X,),
        ),
        "preduced and back": Case(
            explicit(lambda x: core.reduced_vary_cast(to(x, "reduced"), "i"), inputs=WHOLE), (X,)
        ),
        "all_gather_reduced": Case(
            explicit(
                lambda x: core.reduced_vary_cast(
                    parallel.all_gather_reduced(x, "i", tiled=True), "i"
                )
            ),
            (X,),
        ),
    }
