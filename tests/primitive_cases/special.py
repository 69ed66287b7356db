"""Cases for funcbackprop.reference.rules.special."""

import jax
import numpy as np
from jax import lax
from jax.scipy import special as js
from scipy import special
from scipy.integrate import quad

from .case import Case, normal, uniform

X = normal(2, 3)
POSITIVE = uniform(2, 3, low=0.2, high=6.0)
SHAPES = {"scalar": (), "empty": (0, 3), "rank 1": (4,), "rank 4": (2, 1, 3, 2)}
UNARY = {
    "erf": lax.erf,
    "erfc": lax.erfc,
    "bessel_i0e": lax.bessel_i0e,
    "bessel_i1e": lax.bessel_i1e,
}
OF_POSITIVE = {"lgamma": lax.lgamma, "digamma": lax.digamma}
A = np.array([0.05, 0.3, 1.0, 1.0, 4.0, 4.0, 30.0, 30.0, 150.0, 150.0])
GAMMA_X = np.array([0.01, 2.0, 0.5, 8.0, 4.9, 5.1, 12.0, 45.0, 148.0, 160.0])


def by_quadrature(a, b, x):
    """dI_x(a, b) / da = int_0^x log(t) p(t) dt - (psi(a) - psi(a + b)) I, and db by symmetry."""

    def d_first(a, b, x):
        density = lambda t: np.log(t) * t ** (a - 1) * (1 - t) ** (b - 1)  # noqa: E731
        integral = quad(density, 0, x, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        mean = special.psi(a) - special.psi(a + b)
        return integral / special.beta(a, b) - mean * special.betainc(a, b, x)

    da = np.vectorize(d_first)(a, b, x)
    return da, -np.vectorize(d_first)(b, a, 1 - x)


def betainc_gradients(a, b, x, dy):
    da, db = by_quadrature(a, b, x)
    density = x ** (a - 1) * (1 - x) ** (b - 1) / special.beta(a, b)
    return da * dy, db * dy, density * dy


CASES = {
    **{f"{n}": Case(f, (2 * X,)) for n, f in UNARY.items()},
    **{
        f"{n}, {kind}": Case(f, (normal(*s),))
        for n, f in UNARY.items()
        for kind, s in SHAPES.items()
    },
    **{f"{n}": Case(f, (POSITIVE,)) for n, f in OF_POSITIVE.items()},
    **{
        f"{n}, {kind}": Case(f, (uniform(*s, low=0.2, high=4.0),))
        for n, f in OF_POSITIVE.items()
        for kind, s in SHAPES.items()
    },
    "lgamma, negative": Case(lax.lgamma, (np.array([-0.5, -1.3, -4.2]),)),
    "digamma, negative": Case(lax.digamma, (np.array([-0.5, -1.3, -4.2]),)),
    "lgamma and digamma, large": Case(lambda x: lax.lgamma(x) + lax.digamma(x), (1e4 * POSITIVE,)),
    "erf and erfc, far out": Case(
        lambda x: lax.erf(x) + lax.erfc(x / 2), (np.array([-30.0, -8.0, 0.0, 8.0, 30.0, np.inf]),)
    ),
    "erf_inv": Case(lax.erf_inv, (np.array([-0.999, -0.3, 0.0, 0.5, 0.9999]),)),
    "erf_inv at 1": Case(lax.erf_inv, (np.array([-1.0, 1.0]),)),
    "erf under vmap": Case(jax.vmap(lambda x: lax.erf(x) * x), (X,)),
    "erf inside grad": Case(jax.grad(lambda x: lax.erf(x).sum()), (X,)),
    "lgamma inside grad": Case(jax.grad(lambda x: lax.lgamma(x).sum()), (POSITIVE,)),
    "digamma inside grad": Case(jax.grad(lambda x: lax.digamma(x).sum()), (POSITIVE,)),
    "bessel_i0e at 0 and far out": Case(
        lax.bessel_i0e, (np.array([-900.0, -60.0, -49.0, 0.0, 49.0, 60.0, 900.0]),)
    ),
    "bessel_i1e at 0 and far out": Case(
        lax.bessel_i1e, (np.array([-900.0, -60.0, -49.0, 0.0, 49.0, 60.0, 900.0]),)
    ),
    # By the differential equation: (exp(-x) I_0)' is about -1 / (2 x) exp(-x) I_0.
    "bessel_i0e, very far out": Case(
        lax.bessel_i0e,
        (np.array([1e8]),),
        jax=False,
        expect=lambda x, dy: (-special.i0e(x) * (1 / (2 * x) + 1 / (8 * x * x)) * dy,),
    ),
    **{
        f"polygamma of order {m}": Case(lambda x, m=m: js.polygamma(m, x), (POSITIVE,))
        for m in (0, 1, 2, 5)
    },
    "polygamma, orders as an array": Case(
        lambda m, x: js.polygamma(m, x), (np.array([0, 1, 3]), np.array([0.7, 2.0, 5.0]))
    ),
    "polygamma, negative": Case(lambda x: js.polygamma(1, x), (np.array([-0.5, -2.3]),)),
    "zeta": Case(
        lambda s, q: js.zeta(s, q),
        (np.array([1.2, 2.0, 5.5, 20.0]), np.array([0.4, 1.0, 3.0, 9.0])),
    ),
    "zeta, exponent as a scalar": Case(
        lambda q: lax.zeta(3.0 + 0 * q, q),
        (POSITIVE,),
        jax=False,
        expect=lambda q, dy: (-3 * special.zeta(4.0, q) * dy,),
    ),
    "igamma": Case(lax.igamma, (A, GAMMA_X)),
    "igammac": Case(lax.igammac, (A, GAMMA_X)),
    "igamma of an array and a scalar": Case(lambda a, x: js.gammainc(a, x), (A, np.array(2.0))),
    "igammac, rank 3, under vmap": Case(
        jax.vmap(lambda a, x: js.gammaincc(a, x)),
        (uniform(2, 1, 3, low=0.3, high=5.0), uniform(2, 4, 3, low=0.3, high=5.0, seed=1)),
    ),
    "igamma, empty": Case(lax.igamma, (np.zeros(0), np.zeros(0))),
    "igamma at x = 0": Case(lax.igamma, (np.array([1.5, 3.0]), np.zeros(2))),
    "igamma inside grad, with respect to x": Case(
        jax.grad(lambda x, a: lax.igamma(a, x).sum()), (np.array([0.5, 3.0]), np.array([0.7, 1.5]))
    ),
    "betainc with respect to x": Case(
        lambda x: js.betainc(2.5, 0.7, x), (np.array([0.01, 0.3, 0.77, 0.99]),)
    ),
    "betainc with respect to all": Case(
        lambda a, b, x: js.betainc(a, b, x),
        (
            np.array([0.6, 2.0, 2.0, 9.0, 30.0]),
            np.array([0.7, 3.0, 0.9, 20.0, 12.0]),
            np.array([0.3, 0.2, 0.9, 0.4, 0.7]),
        ),
        tolerance=1e-9,
        jax=False,
        expect=betainc_gradients,
    ),
    "betainc, parameters as scalars": Case(
        lambda a, x: js.betainc(a, 2.0, x),
        (np.array(1.5), np.array([0.2, 0.6])),
        tolerance=1e-9,
        jax=False,
        expect=lambda a, x, dy: (
            np.sum(betainc_gradients(a, 2.0, x, dy)[0]),
            betainc_gradients(a, 2.0, x, dy)[2],
        ),
    ),
}

if hasattr(lax, "polynomial"):
    CASES["polynomial"] = Case(lambda x, a: lax.polynomial(x, [0.5, a, x, 2.0]), (X, np.array(0.7)))
    CASES["polynomial of degree 12"] = Case(
        lambda x, a: lax.polynomial(x, [a + k for k in range(13)]), (X, X[:, :1])
    )
if hasattr(lax, "one_minus_square"):
    CASES["one_minus_square"] = Case(lax.one_minus_square, (X,))
