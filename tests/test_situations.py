"""What users reported, and what the checker must say of it: findings, and guards against alarm."""

import contextlib
import linecache
import re

import jax
import pytest

import funcbackprop as fb
from tests.situations import SITUATIONS, required


def checked(situation):
    x64 = enabled_x64() if situation.x64 else contextlib.nullcontext()
    matmul = jax.default_matmul_precision(situation.matmul)
    with x64, matmul, jax.numpy_rank_promotion("allow"):
        return fb.check_gradients(
            situation.loss, situation.params, situation.batch, **situation.options
        )


def expected_verdicts(situation, report):
    """Leaf -> the verdict that is right."""
    names = [leaf.leaf for leaf in report.leaves]
    expected = situation.expected
    return dict.fromkeys(names, expected) if isinstance(expected, str) else expected


@contextlib.contextmanager
def enabled_x64():
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def named_lines(report):
    """The source lines that a report names."""
    places = re.findall(r"(/[^\s:]+\.py):(\d+)", str(report))
    return [linecache.getline(file, int(line)) for file, line in places]


pytestmark = pytest.mark.usefixtures("full_optimization")


def mistakes(situation):
    """What a report says that it should not, or the reverse."""
    report = checked(situation)
    expected = expected_verdicts(situation, report)
    verdicts = {leaf.leaf: leaf.verdict for leaf in report.leaves}
    wrong = [
        f"{k}: {verdicts.get(k)}, expected {v}" for k, v in expected.items() if verdicts.get(k) != v
    ]
    text = " ".join(str(report).split())
    wrong += [f"does not say {word!r}" for word in situation.says if word not in text]
    if situation.at and not any(situation.at in line for line in named_lines(report)):
        wrong.append(f"does not name the line with {situation.at!r}")
    return wrong, report


MUST = [pytest.param(name, marks=pytest.mark.core) for name in required.SITUATIONS]
REPORTED = [name for name in SITUATIONS if name not in required.SITUATIONS]


@pytest.mark.parametrize("name", [*MUST, *REPORTED])
def test_the_verdict_is_right(name, recwarn):
    build, _ = SITUATIONS[name]
    wrong, report = mistakes(build())
    assert not wrong, "\n".join([*wrong, str(report)])
