"""Capture of functions as programs, and evaluation of single equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcbackprop import graph

pytestmark = pytest.mark.core

X = np.ones(3, np.float32)


def names(program):
    return [equation.name for equation in program.equations]


@jax.custom_vjp
def double(x):
    return 2 * x


double.defvjp(lambda x: (double(x), None), lambda _, dy: (dy,))


def test_calls_are_flattened():
    def f(x):
        return jax.jit(jax.checkpoint(lambda y: jnp.sin(double(y))))(x)

    program = graph.trace(f)(X)
    assert names(program) == ["mul", "sin"]
    mul, sin = program.equations
    assert [call.kind for call in mul.calls] == ["jit", "remat", "custom_vjp"]
    assert mul.calls[-1].name == "double"
    assert [call.kind for call in sin.calls] == ["jit", "remat"]


def test_each_call_gets_variables_of_its_own():
    inner = jax.jit(lambda x: jnp.sin(x) * 2)
    program = graph.trace(lambda x: inner(inner(x)))(X)
    outputs = [v for equation in program.equations for v in equation.outputs]
    assert names(program) == ["sin", "mul"] * 2
    assert len(set(outputs)) == 4
    assert program.outputs == (outputs[-1],)


def test_sources_are_the_users_lines():
    def f(x):
        y = jnp.sin(x)
        return jax.nn.gelu(jnp.where(y > 0, y, 0.0))  # functions of JAX: this line

    program = graph.trace(f)(X)
    first = f.__code__.co_firstlineno
    for equation in program.equations:
        assert equation.source.file == __file__
        assert equation.source.line == first + (1 if equation.name == "sin" else 2), equation
    again = graph.trace(lambda x: jnp.where(x > 0, x, 0.0))(X)  # its inner jit was traced before
    line = test_sources_are_the_users_lines.__code__.co_firstlineno + 10
    assert {equation.source.line for equation in again.equations} == {line}


def test_control_flow_keeps_its_programs():
    def f(x):
        y, _ = jax.lax.scan(lambda c, t: (jax.lax.cond(t > 0, jnp.sin, jnp.cos, c), None), x, X)
        return jax.lax.while_loop(lambda z: jnp.sum(z) < 9, lambda z: z + 1, y)

    program = graph.trace(f)(X)
    scan, loop = program.equations[-2:]
    body = scan.programs["jaxpr"]
    assert "cond" in names(body)
    branches = body.equations[-1].programs["branches"]
    assert [names(branch) for branch in branches] == [["cos"], ["sin"]]
    assert branches[0].equations[0].source.line == f.__code__.co_firstlineno + 1
    assert set(loop.programs) == {"cond_jaxpr", "body_jaxpr"}
    assert "jaxpr" not in scan.params


def test_constants_and_unused_equations():
    table = np.arange(3, dtype=np.float32)

    def f(x):
        jnp.exp(x)
        jax.debug.print("{}", x)
        return x * jnp.asarray(table)

    program = graph.trace(f)(X)
    assert [name for name in names(program) if name != "device_put"] == ["mul"]
    constants = [np.asarray(value) for _, value in program.constants]
    literals = [
        a.value for e in program.equations for a in e.inputs if isinstance(a, graph.Literal)
    ]
    np.testing.assert_array_equal((*constants, *literals)[0], table)


def test_trees_and_names():
    program = graph.trace(lambda p, x: {"y": p["w"] * x})({"w": X}, X)
    assert program.names == ("[0]['w']", "[1]")
    assert jax.tree.unflatten(program.out_tree, ["z"]) == {"y": "z"}


def test_functions_of_jax_can_be_kept():
    def relu(x):
        return jnp.maximum(x, 0)

    users = jax.custom_jvp(relu)
    users.defjvp(lambda p, t: (users(*p), t[0]))
    program = graph.trace(lambda x: jax.nn.relu(x) + users(x), keep={"relu"})(X)
    assert names(program) == ["jax:relu", "max", "add"]
    assert names(program.equations[0].programs["body"]) == ["max"]


def test_an_unknown_program_is_refused():
    from jax.extend.core import Primitive

    strange = Primitive("strange_call")
    strange.def_impl(lambda x, **params: x)
    strange.def_abstract_eval(lambda x, **params: x)
    held = jax.make_jaxpr(jnp.sin)(X)
    with pytest.raises(graph.UnsupportedPrimitive, match=r"`strange_call` at .*test_graph.py:\d+"):
        graph.trace(lambda x: strange.bind(x, held=held))(X)


def test_a_mutable_array_from_outside_is_refused():
    make = getattr(jax, "new_ref", None)
    if make is None:  # JAX 0.7
        from jax._src.core import mutable_array as make
    ref = make(jnp.ones(3))
    with pytest.raises(graph.UnsupportedPrimitive, match="closes over a mutable array"):
        graph.trace(lambda x: x * ref[...])(X)


def test_a_function_of_jax_itself_has_no_source_here():
    (equation,) = graph.trace(jnp.sin)(X).equations
    assert "capture" not in str(equation.source)


def test_evaluation_in_own_dtype_and_in_float64():
    (equation,) = graph.trace(lambda x: x.astype(jnp.bfloat16))(X).equations
    third = np.float32(1 / 3)
    (own,) = graph.evaluate(equation, third)
    (wide,) = graph.evaluate_wide(equation, np.float64(1 / 3))
    assert own.dtype == jnp.bfloat16
    assert wide.dtype == np.float64
    assert wide == 1 / 3
    assert not jax.config.jax_enable_x64


def test_the_text_of_an_equation_that_lacks_one_of_its_programs():
    def solve(b):
        return jax.lax.custom_linear_solve(lambda x: 2 * x, b, lambda matvec, b: b / 2)

    (equation,) = graph.trace(solve)(X).equations
    assert None in equation.programs["jaxprs"]
    assert "jaxprs(" in str(graph.trace(solve)(X))


def test_the_text_of_a_program():
    def f(w, x):
        return jax.lax.scan(lambda c, t: (jnp.tanh(c * w + t), None), x, X)[0]

    text = str(graph.trace(f)(np.float32(1), np.float32(0)))
    assert text.startswith("inputs: v0:float32[], v1:float32[]")
    assert "  jaxpr(" in text
    assert "= tanh v" in text
    assert f"test_graph.py:{f.__code__.co_firstlineno + 1}" in text
    assert text.splitlines()[-1].startswith("outputs: v")


def test_what_is_computed_again_stays_behind_a_barrier():
    gradient = jax.grad(jax.checkpoint(lambda w, x: jnp.sum(jnp.sin(jnp.tanh(w * x)))))
    found = names(graph.trace(gradient)(jnp.ones(3), jnp.ones(3)))
    assert "optimization_barrier" in found
    assert found.index("optimization_barrier") < len(found) - 1 - found[::-1].index("tanh")


def test_an_equation_binds_under_a_trace():
    loop = lambda w, x: jax.lax.scan(lambda c, t: (c * t, c), w, x)  # noqa: E731
    program = graph.trace(loop)(1.0, jnp.ones(3))
    (scan,) = program.equations
    end, ys = jax.jit(lambda w, x: graph.bind(scan, w, x))(2.0, jnp.arange(1.0, 4.0))
    assert float(end) == 12.0
    np.testing.assert_allclose(ys, [2.0, 2.0, 4.0])


def test_what_is_seen_inside_loops_and_branches():
    def f(w, x):
        def turn(h, w):
            return jnp.tanh(h * w), h

        h, before = jax.lax.scan(turn, x, w)
        h = jax.lax.cond(h[0] > 0, jnp.tanh, jnp.sin, h)
        return jnp.tanh(h), before

    w = np.arange(1, 5, dtype=np.float32)
    program = graph.trace(f)(w, X)
    looks = {
        e: (lambda inputs, outputs: inputs[0][0]) for e in program.everything() if e.name == "tanh"
    }
    outputs, seen = jax.jit(graph.observed(program, looks))(w, X)
    for got, wanted in zip(outputs, f(w, X), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    of_turns = np.asarray(outputs[1])[:, 0] * w
    by_shape = {np.shape(x): x for x in seen if x is not None}
    np.testing.assert_allclose(by_shape[(4,)], of_turns, rtol=1e-6)
    assert len(seen) == 3
    assert sum(x is None for x in seen) == 1
