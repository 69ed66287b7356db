"""The report of a run: files, text, figures and errors, on synthetic run folders."""

import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from funcbackprop import figures, report

LAYERS = ("layers.0", "layers.1", "layers.2")
LONG = tuple(
    f"transformer.encoder.block_{k:02d}.attention.projection.query_key_value" for k in range(30)
)


def make_run(
    folder,
    *,
    seeds=(0,),
    steps=1500,
    batch_size=64,
    layers=LAYERS,
    noise=True,
    check=True,
    diverged_at=None,
    one_measurement=False,
    undecided=False,
):
    """A run folder as `funcbackprop study` writes it, from a seeded model of a training run.

    With `undecided`, late estimates of |G|^2 are negative and their noise scale is null.
    """
    folder.mkdir(parents=True)
    config = {
        "model": "mlp",
        "data": "digits",
        "steps": steps,
        "batch_size": batch_size,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "seeds": list(seeds),
        "name": folder.name,
    }
    rows, last = [], diverged_at or steps
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows += _step_rows(rng, seed, last, diverged_at)
        marks = [0] if one_measurement else _log_spaced(last if not diverged_at else last - 1)
        for step in marks:
            rows.append(_measurement(rng, seed, step, steps, batch_size, layers, noise, undecided))
            if noise:
                rows += _effect_and_sharpness(rng, seed, step, layers, undecided)
        if check:
            rows += [_check(rng, seed, step, layers, check) for step in (marks[0], marks[-1])]
    write = {
        "config.json": config,
        "metadata.json": _metadata(seeds),
        "summary.json": _summary(folder.name, seeds, steps, rows, check, diverged_at),
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _log_spaced(last):
    marks = {0, last, *(round(x) for x in np.geomspace(1, last, 11))}
    return sorted(marks)


def _step_rows(rng, seed, last, diverged_at):
    steps = np.arange(1, last + 1)
    loss = 2.3 / (1 + steps / 25) * np.exp(0.25 * rng.standard_normal(last)) + 1e-3
    rows = [
        {"kind": "step", "seed": seed, "step": int(k), "loss": float(x), "grad_norm": float(x)}
        for k, x in zip(steps, loss, strict=True)
    ]
    if diverged_at:
        for k, row in enumerate(rows):
            row["loss"] *= 1.0 + 0.3 * k
        rows[-1] |= {"loss": None, "grad_norm": None}
    return rows


def _measurement(rng, seed, step, steps, batch_size, layers, noise, undecided):
    train = 2.3 / (1 + step / 25) * np.exp(0.05 * rng.standard_normal())
    test = train + 0.09 * step / steps + 0.04 * (step / (step + 100))
    row = {
        "kind": "measurement",
        "seed": seed,
        "step": int(step),
        "batch_size": batch_size,
        "examples": 1437,
        "metrics": {
            "train": {"loss": float(train), "accuracy": float(1 - 0.39 * train)},
            "test": {"loss": float(test), "accuracy": float(1 - 0.39 * test)},
        },
    }
    if noise:
        each = {
            name: _noise(rng, 40.0 * 0.8**k * train**1.2, train, batch_size)
            for k, name in enumerate(layers)
        }
        S = sum(x["S"] for x in each.values())
        sq = sum(x["sq_gradient_norm"] for x in each.values())
        if undecided and step > steps / 8:
            sq = -sq
            worst = layers[1]
            each[worst] = _entry(each[worst]["S"], -each[worst]["sq_gradient_norm"], batch_size)
        row["noise"] = {"total": _entry(S, sq, batch_size), "layers": each}
    return row


def _effect_and_sharpness(rng, seed, step, layers, undecided):
    fall = 0.3 / (1 + step / 20)
    rise = 2.5 if undecided and step > 20 else 0.2  # of the curvature, in units of the first order
    bend, off = rise * fall, 0.02 * fall * float(rng.standard_normal())
    error = 0.02 + (0.3 * fall if undecided else 0)

    def estimate(value):
        ends = {"lower": value - 2 * error, "upper": value + 2 * error}
        return {"value": value, "standard_error": error, **ends, "status": "ok"}

    parts = {"first_order": -fall, "curvature": bend, "predicted": bend - fall}
    parts |= {"actual": bend - fall + off, "error": off, "share_helped": 0.7}
    each = {x: estimate(-fall / len(layers) * (1 if k else -0.5)) for k, x in enumerate(layers)}
    effect = {name: estimate(value) for name, value in parts.items()}
    effect |= {"first_order_by_layer": each, "data": "test", "rounding": 1e-8}
    status = "preconditioner not positive" if step == 0 else "ok"
    value = None if step == 0 else 1e5 / (1 + step / 3)
    sharpness = {"value": value, "upper": value and 1.1 * value, "residual": value and value / 100}
    sharpness |= {"smallest": value and -value / 9, "status": status, "preconditioned": True}
    sharpness |= {"threshold": None if undecided else 38e3}
    return [
        {"kind": "update_effect", "seed": seed, "step": int(step), "examples": 360, **effect},
        {"kind": "sharpness", "seed": seed, "step": int(step), "examples": 128, **sharpness},
    ]


def _noise(rng, S, train, batch_size):
    S = float(S * np.exp(0.1 * rng.standard_normal()))
    return _entry(S, float(S * 0.06 * train**1.6 * np.exp(0.2 * rng.standard_normal())), batch_size)


def _entry(S, sq, batch_size):
    return {
        "S": S,
        "sq_gradient_norm": sq,
        "noise_scale": S / sq if sq > 0 else None,
        "signal_to_noise": batch_size * sq / S,
        "batch_variance": S / batch_size,
        "status": "ok" if sq > 0 else "gradient not above zero",
    }


def _check(rng, seed, step, layers, check):
    row = {"kind": "gradient_check", "seed": seed, "step": int(step)}
    leaves = [
        {
            "leaf": f"params['{name}']['{leaf}']",
            "verdict": "agrees",
            "ok": True,
            "relative_error": float(10 ** rng.uniform(-7.5, -6)),
            "error_in_bounds": float(10 ** rng.uniform(-2, -0.5)),
            "resolution": 1e-5,
        }
        for name in layers
        for leaf in "wb"
    ]
    if check == "differs":
        leaves[0] |= {"verdict": "differs", "ok": False, "error_in_bounds": 3e4}
        leaves[1] |= {"verdict": "not finite", "ok": False}
        leaves[1] |= {"relative_error": None, "error_in_bounds": None}
        leaves[2] |= {"error_in_bounds": 0.0}
    if check == "not audited":
        leaves[0] |= {
            "verdict": check,
            "ok": False,
            "relative_error": None,
            "error_in_bounds": None,
            "reason": "a <callback> at m.py:3",
        }
    return row | {
        "ok": check is True,
        "reference": "layerwise",
        "leaves": leaves,
    }


def _metadata(seeds):
    return {
        "versions": {"python": "3.11.9", "jax": "0.10.2", "numpy": "2.4.6"},
        "devices": ["TFRT_CPU_0"],
        "cores": 2,
        "seeds": list(seeds),
        "data": {"name": "digits", "hash": "9f2c", "examples": 1437, "test_examples": 360},
        "parameters": 26122,
        "command": "funcbackprop study",
        "started": "2025-01-01T12:00:00+00:00",
    }


def _summary(name, seeds, steps, rows, check, diverged_at):
    last = {row["seed"]: row["metrics"] for row in rows if row["kind"] == "measurement"}
    final = {}
    for split in ("train", "test"):
        for metric in ("loss", "accuracy"):
            values = [last[seed][split][metric] for seed in seeds]
            final[f"{split} {metric}"] = {
                "mean": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)) if len(seeds) > 1 else None,
                "per_seed": values,
            }
    verdict = {"ok": check is True, "worst_error_in_bounds": 0.2, "compared_at": [0, steps]}
    return {
        "name": name,
        "outcome": f"stopped: loss is nan at step {diverged_at}" if diverged_at else "completed",
        "seeds": list(seeds),
        "steps": diverged_at or steps,
        "final": final,
        **({"gradient_check": verdict} if check else {}),
        "seconds": 41.2,
        "report": "report.html",
    }


RUNS = {
    "single": {},
    "seeds": {"seeds": (0, 1, 2), "undecided": True},
    "train": {"noise": False, "check": False},
    "unaudited": {"noise": False, "check": "not audited"},
    "diverged": {"diverged_at": 37},
    "differs": {"check": "differs", "steps": 100, "noise": False},
    "deep": {"layers": LONG, "undecided": True, "steps": 50},
    "once": {"one_measurement": True, "steps": 20},
}
PLOTS = ["gradient_check", "gradient_noise", "layers", "learning", "noise_scale"]
PLOTS += ["responsibility", "sharpness", "update_effect"]
CHECKED = ["gradient_check", "learning"]
FEWER = {"train": ["learning"], "unaudited": CHECKED, "differs": CHECKED}
SENTENCES = {
    "single": [
        "takes back up to 20 % of the first-order fall",
        "batch mostly sees noise",
        "All 6 leaves agreed with the layerwise reference",
    ],
    "seeds": ["mean of 3 seeds", "At 3 of 12 measured steps the estimate of |G|²", "± "],
    "train": [
        "What the next update does was not measured",
        "Per-example gradients were not measured",
        "was not compared in this run",
    ],
    "unaudited": ["1 of 6 leaves were not found", "a <callback> at m.py:3"],
    "diverged": ["stopped because loss is nan at step 37", "of step 37 was not finite"],
    "differs": ["2 of 6 leaves were not found to agree", "(not finite)", "trust no other number"],
    "deep": ["In 1 of 30 layers it was not above zero", "the largest share of 30 layers"],
    "once": ["Measured once, at step 0", "Measured once, at step 0: train loss"],
}


class Page(HTMLParser):
    """What the tests look at: text, images, links and whether all tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.text, self.images, self.tags, self.addresses, self.open = "", [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.addresses += [attrs[key] for key in ("src", "href", "srcset") if key in attrs]
        if tag not in {"img", "meta", "br", "link", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """name -> (folder, parsed page), written once."""
    cache = {}

    def get(name):
        if name not in cache:
            folder = make_run(tmp_path_factory.mktemp("runs") / name, **RUNS[name])
            path = report.write(folder)
            assert path == folder / "report.html"
            cache[name] = folder, Page(path.read_text(encoding="utf-8"))
        return cache[name]

    return get


@pytest.mark.parametrize("name", RUNS)
def test_page_is_self_contained_and_says_what_to_see(written, name):
    folder, page = written(name)
    plots = FEWER.get(name, PLOTS)
    assert page.open == []
    assert len(page.images) == len(plots)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"] for image in page.images)
    assert all(x.startswith(("data:", "#")) for x in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for text in (*SENTENCES[name], "Glossary", "B_simple", "learning_rate", "versions.jax", name):
        assert text in page.text
    assert "nan" not in page.text.replace("loss is nan", "")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expected = ["config.json", "metadata.json", "metrics.jsonl", "report.html", "summary.json"]
    assert files == sorted(expected + [f"plots/{plot}.png" for plot in plots])


@pytest.mark.parametrize("name", RUNS)
def test_terminal_table_fits_and_ends_with_the_path(written, name):
    folder, _ = written(name)
    lines = report.table(folder).splitlines()
    assert lines[-1] == f"Report: {folder / 'report.html'}"
    table_lines = [x for x in lines[1:-1] if not x.startswith("  step")]
    assert max(map(len, table_lines)) <= 100
    assert any("test accuracy" in line for line in lines)


def test_terminal_table_names_what_is_wrong(written):
    text = report.table(written("differs")[0])
    assert "params['layers.0']['w']: differs" in text
    assert "4 of 6 leaves agree" in text
    assert "params['layers.0']['w']: not audited" in report.table(written("unaudited")[0])
    deep = report.table(written("deep")[0])
    assert "24 of 30 layers" in deep
    assert "…block_00" in deep
    assert "|G|² ≤ 0" in deep


def test_a_second_report_replaces_the_first(tmp_path):
    folder = make_run(tmp_path / "again", steps=20, check=False)
    report.write(folder)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [row for row in rows if json.loads(row)["kind"] == "step"]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    (folder / "summary.json").unlink()
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert [path.name for path in (folder / "plots").iterdir()] == ["learning.png"]
    assert "This run has not finished" in page.text
    assert "The loss of a mini-batch went from" in page.text


def test_names_are_escaped(tmp_path):
    layers = ("<script>alert(1)</script>", "a$b$c & d")
    folder = make_run(tmp_path / "escaped", steps=5, layers=layers, check=False)
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert layers[0] in page.text
    assert layers[1] in page.text


def test_a_run_without_rows_still_has_a_report(tmp_path):
    folder = make_run(tmp_path / "empty", steps=5)
    (folder / "metrics.jsonl").write_text("")
    page = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "no update and no measurement" in page.text
    assert report.table(folder)


@pytest.mark.parametrize("make", [report.write, report.table])
def test_errors_name_folder_file_and_line(tmp_path, make):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make(tmp_path / "nowhere")
    folder = make_run(tmp_path / "broken", steps=3)
    metrics = folder / "metrics.jsonl"
    good = metrics.read_text()
    for line, text in (
        ('{"kind": "step", "seed": 0', "line 1 of metrics.jsonl is not strict JSON"),
        ('{"kind": "step", "seed": 0, "step": 1, "loss": NaN}', "NaN is not JSON"),
        ('{"kind": "step", "seed": 0, "step": 1}', "kind 'step' without loss"),
        ("[1]", 'must be a JSON object with "kind"'),
    ):
        metrics.write_text(line + "\n" + good)
        with pytest.raises(ValueError, match=text):
            make(folder)
    metrics.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.jsonl"):
        make(folder)
    assert not (folder / "report.html").exists()


def test_rows_of_unknown_kind_are_passed_over(tmp_path):
    folder = make_run(tmp_path / "newer", steps=3, noise=False, check=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "diagnosis", "seed": 0}\n')
    assert report.table(folder)


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    figure = figures.noise_scale({0: ([0, 1], [2.0, 3.0])}, 64)
    with pytest.raises(ValueError, match="not supported"):
        figures.save(figure, tmp_path / "plot.nonsense")
    assert list(tmp_path.iterdir()) == []
    assert figures.save(figure, tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_estimates_that_a_log_axis_cannot_hold_are_named_in_the_legend():
    curve = {0: ([0, 1, 2], [2.0, -1.0, None])}
    figure = figures.gradient_noise({0: ([0, 1, 2], [5.0, 5.0, 5.0])}, curve)
    assert "|G|²: at or below 0 or no estimate" in legend_of(figure)
    names = legend_of(figures.noise_scale(curve, 64))
    assert "no finite estimate" in names
    assert "batch size: 64 examples" in names


def test_no_estimate_falls_off_a_log_axis():
    """The lower limit of the last |G|^2 is negative, so that its value alone holds the axis."""
    steps = [0, 1]
    limits = {0: (steps, [0.9, -1.0])}, {0: (steps, [1.1, 2.0])}
    figure = figures.gradient_noise(
        {0: (steps, [5.0, 5.0])}, {0: (steps, [1.0, 1e-3])}, sq_norm_limits=limits
    )
    assert figure.axes[0].get_ylim()[0] < 1e-3


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_every_metric_has_a_panel():
    one = {0: ([0, 10, 100], [1.0, 0.5, 0.2])}
    measured = {name: {"test": one} for name in ("loss", "a", "b", "c", "d", "e")}
    figure = figures.learning_curves(one, measured)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Loss", "A", "B", "C", "D", "E"]


def test_several_seeds_have_one_line_for_each_compared_step(written):
    lines = report.table(written("seeds")[0]).splitlines()
    steps = [line for line in lines if line.startswith("  step")]
    assert len(steps) == 2
    assert all("18 of 18 leaves agree over 3 seeds" in line for line in steps)


def test_a_loss_that_grows_everywhere_is_not_called_overfitting(tmp_path):
    folder = make_run(tmp_path / "worse", steps=20, noise=False, check=False)
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for values in row.get("metrics", {}).values():
            values["loss"] = 2.0 + row["step"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "test loss was lowest" not in report.write(folder).read_text(encoding="utf-8")


def test_what_is_missing_is_said_once(written):
    page = written("train")[1]
    assert page.text.count("Per-example gradients were not measured") == 1


def test_every_figure_has_a_title_and_labelled_axes():
    one = {0: ([0, 10, 100], [1.0, 0.5, 0.2])}
    many = {f"layer {k}": one for k in range(9)}
    leaf = {"leaf": "params['w']", "step": 0, "error_in_bounds": 0.1, "ok": True}
    for figure in (
        figures.learning_curves(one, {"loss": {"train": one}, "perplexity": {"test": one}}),
        figures.gradient_noise(one, one),
        figures.noise_scale(one),
        figures.layer_variance({"w": one}, {"w": one}),
        figures.layer_variance(many, many),
        figures.gradient_check([leaf]),
    ):
        for ax in [ax for ax in figure.axes if ax.get_title(loc="left")]:
            assert ax.get_xlabel()
            assert ax.get_ylabel() or ax.get_yticks().size
    assert "matplotlib.pyplot" not in vars(figures)


def test_figures_say_how_to_get_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(ImportError, match=r'pip install "funcbackprop\[study\]"'):
        figures.noise_scale({0: ([0], [1.0])}, 64)
