"""Cases for funcbackprop.reference.rules.library."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special as js
from scipy import special

from .case import Case, cplx, normal, uniform

X, Y = normal(2, 3), normal(2, 3, seed=1)
INF = np.inf
KINKS = np.array([-1.0, -0.0, 0.0, 1e-9, 2.0, 6.0, 7.0, INF, -INF])
SHAPES = {"scalar": (), "empty": (0, 3), "rank 4": (2, 1, 3, 2)}
ADDEXP = {"logaddexp": jnp.logaddexp, "logaddexp2": jnp.logaddexp2}
XLOG = {"xlogy": (js.xlogy, 0.0), "xlog1py": (js.xlog1py, -1.0)}


def singular(n):
    """A matrix of rank n - 1."""
    u, s, vh = np.linalg.svd(normal(n, n))
    return u @ np.diag(np.where(np.arange(n) == n - 1, 0, s)) @ vh


def rank_2():
    return normal(4, 2) @ normal(2, 3, seed=1)


def cut_pinv_gradient(a, dp):
    """Of pinv where the smallest of two singular values is cut off: (1 / s) v u^H, by terms."""
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    (u1, u2), (v1, v2) = u.T, vh
    gap = s[0] ** 2 - s[1] ** 2
    # The first pair turns: du_1 = u_2 c + (the rest of dA v_1) / s_1, and so for v_1.
    outside_u, outside_v = np.eye(len(u1)) - u @ u.T, np.eye(len(v1)) - vh.T @ vh
    du = np.outer(dp.T @ v1, [1.0])[:, 0] / s[0]
    dv = dp @ u1 / s[0]
    ds = -(v1 @ dp @ u1) / s[0] ** 2
    da = ds * np.outer(u1, v1)
    da += (u2 @ du) / gap * (s[0] * np.outer(u2, v1) + s[1] * np.outer(u1, v2))
    da += (v2 @ dv) / gap * (s[1] * np.outer(u2, v1) + s[0] * np.outer(u1, v2))
    return (da + np.outer(outside_u @ du, v1) / s[0] + np.outer(u1, outside_v @ dv) / s[0],)


def second_sinc(x):
    return jax.vmap(jax.grad(jnp.sinc))(x)


def hypergeometric(x):
    return js.hyp1f1(x, x + 0.7, 2 * x) + js.hyp1f1(x + 1, 2.0, x)


CASES = {
    "relu": Case(jax.nn.relu, (X,)),
    "relu at 0 and infinity": Case(jax.nn.relu, (KINKS,)),
    "relu6 at 0, 6 and infinity": Case(jax.nn.relu6, (KINKS,)),
    **{f"relu, {kind}": Case(jax.nn.relu, (normal(*s),)) for kind, s in SHAPES.items()},
    "relu under vmap and jit": Case(jax.jit(jax.vmap(lambda x: jax.nn.relu(x) * x)), (X,)),
    "relu in a scan": Case(lambda x: lax.scan(lambda c, v: (jax.nn.relu(c + v), c), x[0], x), (X,)),
    "relu inside grad": Case(jax.grad(lambda x: (jax.nn.relu(x) ** 2).sum()), (KINKS[:-2],)),
    **{f"{n}": Case(f, (X, Y)) for n, f in ADDEXP.items()},
    **{
        f"{n}, {kind}": Case(f, (normal(*s), normal(*s, seed=1)))
        for n, f in ADDEXP.items()
        for kind, s in SHAPES.items()
    },
    **{f"{n} of equal numbers": Case(f, (X, X)) for n, f in ADDEXP.items()},
    **{
        f"{n}, infinite": Case(f, (np.array([-INF, 1.0, -800.0]), np.array([2.0, -INF, 900.0])))
        for n, f in ADDEXP.items()
    },
    # JAX gives NaN for two of -inf, 1 each for two of +inf, and exp(x2) beside one of +inf.
    **{
        f"{n} of equal infinities": Case(
            f,
            (np.array([-INF, INF, INF]), np.array([-INF, INF, 1.0])),
            jax=False,
            expect=lambda x, y, dz: (np.array([0.5, 0.5, 1]) * dz, np.array([0.5, 0.5, 0]) * dz),
        )
        for n, f in ADDEXP.items()
    },
    **{f"{n}, complex": Case(f, (cplx(3), cplx(3, seed=1))) for n, f in ADDEXP.items()},
    "logaddexp with broadcasting, under vmap": Case(
        jax.vmap(jnp.logaddexp, in_axes=(0, None)), (X, Y[0])
    ),
    "softplus at 0": Case(jax.nn.softplus, (np.array([-50.0, 0.0, 0.3, 800.0]),)),
    "log_sigmoid at 0": Case(jax.nn.log_sigmoid, (np.array([-800.0, 0.0, 0.3]),)),
    **{f"{n}": Case(f, (X, uniform(2, 3))) for n, (f, _) in XLOG.items()},
    **{
        f"{n}, x = 0": Case(f, (np.zeros(3), np.array([0.5, 2.0, 3.0])))
        for n, (f, _) in XLOG.items()
    },
    # JAX gives NaN for dy.
    **{
        f"{n}, x = 0 and log = -inf": Case(
            f,
            (np.zeros(1), np.array([edge])),
            jax=False,
            expect=lambda x, y, dz: (-INF * dz, np.zeros(1)),
        )
        for n, (f, edge) in XLOG.items()
    },
    "entr": Case(js.entr, (uniform(4),)),
    "entr at 0": Case(js.entr, (np.zeros(2),)),
    "rel_entr": Case(js.rel_entr, (uniform(4), uniform(4, seed=1))),
    "logit": Case(js.logit, (np.array([0.0, 1e-9, 0.3, 1.0]),)),
    "log1mexp": Case(jax.nn.log1mexp, (np.array([0.0, 1e-9, 0.3, np.log(2), 3.0, 800.0]),)),
    "sinc": Case(jnp.sinc, (np.array([-1.0, 0.0, 0.3]),)),
    "sinc inside grad": Case(second_sinc, (np.array([-1.0, 0.2, 0.3]),)),
    "i0 at 0": Case(jnp.i0, (np.array([-20.0, -1.0, 0.0, 2.0]),)),
    "i1 at 0": Case(js.i1, (np.array([-20.0, -1.0, 0.0, 2.0]),)),
    "log_ndtr": Case(js.log_ndtr, (np.array([-19.0, -3.0, 0.0, 4.0, 7.0, 9.0, 37.0]),)),
    "log_ndtr, far out": Case(
        js.log_ndtr,
        (np.array([-1e5, -40.0, -20.0, 40.0, INF]),),
        jax=False,
        expect=lambda x, dy: (
            np.where(x < 0, np.sqrt(2 / np.pi) / special.erfcx(-x / np.sqrt(2)), 0.0) * dy,
        ),
        tolerance=1e-9,
    ),
    # JAX 0.12 has other polynomials in float32 than in float64.
    "ndtri": Case(js.ndtri, (np.array([1e-5, 0.2, 0.5, 0.9, 0.999]),), narrow=False),
    # Loops over all points, which go on until float32 is precise enough in a float32 program.
    "expi": Case(js.expi, (np.array([-0.2, 0.3, 5.0]),), narrow=False),
    "exp1": Case(js.exp1, (np.array([0.9, 1.0, 1.1]),), narrow=False),
    # JAX differentiates E_0 as -E_{-1}, which is NaN there.
    **{
        f"expn of order {n}": Case(
            lambda x, n=n: js.expn(n, x),
            (np.array([0.2, 0.9, 5.0]),),
            jax=False,
            expect=lambda x, dy, slope=slope: (slope(x) * dy,),
            narrow=False,
        )
        for n, slope in (
            (0, lambda x: -np.exp(-x) / x * (1 + 1 / x)),
            (3, lambda x: -special.expn(2, x)),
        )
    },
    "fresnel": Case(js.fresnel, (np.array([-40.0, -2.0, 0.0, 0.5, 1.7, 3.0]),)),
    "poch": Case(js.poch, (np.array([0.5, 2.0, 3.0]), np.array([1.5, 0.7, 4.0]))),
    "poch, m = 0": Case(js.poch, (np.array([0.5, 2.0]), np.zeros(2))),
    "hyp1f1": Case(
        js.hyp1f1,
        (np.array([0.3, 1.2, 2.0]), np.array([0.7, 2.2, 5.0]), np.array([0.2, 0.6, 5.0])),
        narrow=False,
    ),
    "hyp1f1 under vmap": Case(jax.vmap(hypergeometric), (np.array([0.5, 1.5]),)),
    "hyp1f1, negative": Case(
        lambda x: js.hyp1f1(1.0, 2.0, x),
        (np.array([-3.0, -0.5]),),
        jax=False,
        expect=lambda x, dy: ((np.exp(x) * (x - 1) + 1) / x**2 * dy,),
    ),
    "hyp1f1, a = b": Case(
        lambda a, x: js.hyp1f1(a, 1.0, x),
        (np.array([1.0]), np.array([0.5])),
        jax=False,
        # d/da sum_k (a)_k / k!^2 x^k at a = 1: sum_k H_k x^k / k!
        expect=lambda a, x, dy: (
            dy
            * sum(
                np.sum(1 / np.arange(1, k + 1)) * x**k / special.factorial(k) for k in range(1, 25)
            ),
            dy * np.exp(x),
        ),
    ),
    "det": Case(jnp.linalg.det, (normal(4, 4),)),
    "det, batch of complex": Case(jnp.linalg.det, (cplx(2, 4, 4),)),
    **{f"det, {n} x {n}": Case(jnp.linalg.det, (normal(n, n),)) for n in (1, 2, 3)},
    "det of a singular matrix": Case(jnp.linalg.det, (singular(4),), tolerance=1e-7),
    # The cofactors of diag(1, 2, 3, 0) are 0, but for the last one.
    "det of a singular diagonal matrix": Case(
        jnp.linalg.det,
        (np.diag([1.0, 2.0, 3.0, 0.0]),),
        jax=False,
        expect=lambda a, dy: (np.diag([0.0, 0.0, 0.0, 6.0]) * dy,),
    ),
    **{
        f"det of zeros, {n} x {n}": Case(
            jnp.linalg.det,
            (np.zeros((n, n)),),
            jax=False,
            expect=lambda a, dy: (np.zeros_like(a),),
        )
        for n in (2, 3, 4)
    },
    "slogdet": Case(jnp.linalg.slogdet, (normal(2, 4, 4),)),
    "slogdet, complex": Case(jnp.linalg.slogdet, (cplx(4, 4),)),
    "slogdet, 2 x 2": Case(jnp.linalg.slogdet, (normal(2, 2),)),
    "slogdet, 2 x 2, complex": Case(jnp.linalg.slogdet, (cplx(2, 2),)),
    "slogdet, 1 x 1": Case(jnp.linalg.slogdet, (normal(1, 1),)),
    "slogdet by QR": Case(
        lambda a: jnp.linalg.slogdet(a, method="qr"),
        (normal(3, 3),),
        jax=False,
        expect=lambda a, dy: (np.linalg.inv(a).T * dy[1],),
        narrow=False,  # the factors come from an opaque primitive, in float32
    ),
    "pinv": Case(jnp.linalg.pinv, (normal(4, 3),)),
    "pinv, wide": Case(jnp.linalg.pinv, (normal(2, 3, 4),)),
    "pinv, complex": Case(jnp.linalg.pinv, (cplx(4, 3),)),
    "pinv, complex and wide": Case(jnp.linalg.pinv, (cplx(2, 4),)),
    "pinv of low rank": Case(jnp.linalg.pinv, (rank_2(),), tolerance=1e-9, narrow=False),
    "pinv with equal singular values": Case(jnp.linalg.pinv, (2 * np.eye(3),)),
    "pinv, Hermitian": Case(
        lambda a: jnp.linalg.pinv(a + a.T, hermitian=True), (normal(3, 3) + 2 * np.eye(3),)
    ),
    "pinv, Hermitian and complex": Case(
        lambda a: jnp.linalg.pinv(a + jnp.conj(a.T), hermitian=True), (cplx(3, 3) + 2 * np.eye(3),)
    ),
    "pinv of an empty matrix": Case(jnp.linalg.pinv, (np.zeros((0, 3)),)),
    # JAX's rule holds only if what is cut off is 0.
    "pinv with a singular value cut off": Case(
        lambda a: jnp.linalg.pinv(a, rtol=0.5),
        (np.diag([3.0, 1.0]) @ np.linalg.qr(normal(3, 2))[0].T,),
        jax=False,
        expect=cut_pinv_gradient,
    ),
}

if hasattr(js, "erfcx"):
    FAR = np.array([-5.0, -1.0, 0.0, 0.5, 4.0, 7.9])
    CASES["erfcx"] = Case(js.erfcx, (FAR,))
    CASES["erfcx, complex"] = Case(js.erfcx, (cplx(4),))
    CASES["erfcx, far out"] = Case(
        lambda x: 1e12 * js.erfcx(x),
        (np.array([1e6]),),
        jax=False,
        expect=lambda x, dy: (-1e12 / (np.sqrt(np.pi) * x**2) * (1 - 1.5 / x**2) * dy,),
    )
if hasattr(js, "dawsn"):
    CASES["dawsn"] = Case(js.dawsn, (np.array([-5.0, -1.0, 0.0, 0.5, 4.0, 7.9]),))
    CASES["dawsn, far out"] = Case(
        lambda x: 1e12 * js.dawsn(x),
        (np.array([1e6]),),
        jax=False,
        expect=lambda x, dy: (-1e12 / (2 * x**2) * (1 + 1.5 / x**2) * dy,),
    )
if hasattr(js, "wofz"):
    CASES["wofz"] = Case(js.wofz, (2 * cplx(6),))
    CASES["wofz, far out"] = Case(
        js.wofz,
        (np.array([30j, 40.0 + 1j, 30.0 - 0.5j]),),
        jax=False,
        expect=lambda z, dy: ((2j / np.sqrt(np.pi) - 2 * z * special.wofz(z)) * dy,),
    )
if hasattr(js, "sici"):
    CASES["sici"] = Case(js.sici, (np.array([0.3, 3.0, 4.0, 9.0, 50.0]),))
    CASES["sici at 0"] = Case(lambda x: js.sici(x)[0], (np.zeros(1),))
if hasattr(js, "owens_t"):
    CASES["owens_t"] = Case(
        js.owens_t,
        (np.array([0.0, 0.5, -1.2, 3.0, 0.7, 0.0]), np.array([0.5, 1.0, -1.0, 2.5, 0.0, 0.0])),
    )
if hasattr(js, "erfcinv"):
    CASES["erfcinv"] = Case(js.erfcinv, (np.array([1e-5, 0.3, 1.0, 1.7]),), narrow=False)
if hasattr(js.hyp2f1, "defjvp"):  # it has a derivative rule of its own since JAX 0.10
    CASES["hyp2f1"] = Case(
        js.hyp2f1,
        (
            np.array([0.3, 1.2, 2.0]),
            np.array([0.7, 2.2, 0.5]),
            np.array([1.3, 3.1, 4.0]),
            np.array([0.2, 0.6, 0.8]),
        ),
        # Its loops go on until float32 is precise enough in a float32 program.
        narrow=False,
    )
    CASES["hyp2f1 at x = 0"] = Case(
        lambda x: js.hyp2f1(0.5, 2.0, 1.5, x),
        (np.zeros(1),),
        jax=False,
        expect=lambda x, dy: (0.5 * 2.0 / 1.5 * dy,),
    )
if jax.__version_info__ < (0, 12):  # then jnp.frexp became an opaque primitive
    CASES["frexp"] = Case(lambda x: jnp.frexp(x)[0], (np.array([0.0, 0.3, -7.0, 1e20, 8.0]),))
    CASES["frexp, both outputs"] = Case(jnp.frexp, (X,))
    CASES["ldexp"] = Case(lambda x: jnp.ldexp(x, np.array([3, -2, 0], np.int32)), (X[0],))
