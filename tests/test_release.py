"""What a release says of itself in several places is the same in all of them."""

from importlib import metadata
from pathlib import Path

import funcbackprop

ROOT = Path(__file__).parent.parent


def test_one_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {funcbackprop.__version__}\n" in citation
    assert metadata.version("funcbackprop") == funcbackprop.__version__


def test_what_is_released_is_in_the_changelog():
    heads = [
        line.split("]")[0].removeprefix("## [")
        for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("## [")
    ]
    assert heads[0] == "Unreleased"
    section = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("## [")[1]
    assert funcbackprop.__version__ in section or funcbackprop.__version__ in heads
