"""The pages in a real browser: no errors, no network, no wider than a phone, whole in print."""

import importlib.util
import shutil

import pytest
from test_report import make_run

from funcbackprop import report

# In the order of .ci/run.
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no browser found: {', '.join(BROWSERS)}"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="playwright is not installed: pip install 'funcbackprop[browser]'",
    ),
    # The event loop of playwright closes after the test that began it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WIDTHS = {"wide": 1280, "phone": 390}
LONG = tuple(f"transformer.encoder.block_{k:02d}.attention.query_key_value" for k in range(12))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """name -> path of a page: reports of one seed, of several with long names, and a comparison."""
    root = tmp_path_factory.mktemp("runs")
    one = make_run(root / "one", steps=60)
    several = make_run(root / "several", steps=60, seeds=(0, 1), layers=LONG, undecided=True)
    return {
        "report": report.write(one),
        "long names": report.write(several),
        "comparison": report.compare(one, several).write(root / "compare.html"),
    }


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, pages):
    """`(name, width) -> (page, what went wrong, addresses asked for)`."""
    open_pages = []

    def open_page(name, width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        open_pages.append(page)
        wrong, asked = [], []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url[:80]))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page, wrong, asked

    yield open_page
    for page in open_pages:
        page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "long names", "comparison"])
def test_a_page_loads_alone_and_fits(opened, pages, name, width):
    page, wrong, asked = opened(name, WIDTHS[width])
    assert wrong == []
    assert [x for x in asked if not x.startswith("data:")] == [pages[name].as_uri()]
    sizes = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert sizes
    assert all(sizes)
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]


def test_terms_lead_to_the_glossary(opened):
    page, _, _ = opened("report")
    dangling = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter(a => !document.getElementById(a.hash.slice(1))).map(a => a.hash)"
    )
    assert dangling == []
    assert page.locator("a.term").count() > 10
    page.locator("a.term", has_text="noise scale").first.click()
    assert page.url.endswith("#term-noise-scale")


def test_print_opens_details_and_cuts_no_figure(opened):
    page, _, _ = opened("report", 700)
    hidden = "[...document.querySelectorAll('details table')].some(t => !t.checkVisibility())"
    assert page.evaluate(hidden)
    page.emulate_media(media="print")
    assert not page.evaluate(hidden)
    breaks = page.evaluate(
        "[...document.querySelectorAll('figure')].map(f => getComputedStyle(f).breakInside)"
    )
    assert set(breaks) == {"avoid"}
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_fault_would_be_seen(browser, tmp_path):
    """The checks above see an error, a request and an overflow where there is one."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<meta name=viewport content='width=device-width'><img src='nowhere.png'>"
        "<p style='width: 900px'>wide</p><script>undefined_function()</script>"
    )
    page = browser.new_page(viewport={"width": 390, "height": 800})
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert "undefined_function" in wrong[0]
    assert len(asked) == 2
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    page.close()
