"""Statistics, ranks and tables of an evaluation, with numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gdpo_sr.evaluation import Evaluation, MetricInfo, Run, pictures, plots, tables
from gdpo_sr.evaluation.folders import read_inputs
from gdpo_sr.evaluation.html_report import render
from gdpo_sr.evaluation.results import load_json, natural_key, save_json
from gdpo_sr.evaluation.statistics import (
    best_mean_worst,
    bootstrap_interval,
    mean_over,
    std_over_runs,
)
from gdpo_sr.evaluation.summary import cells, choose_baseline, differences, noise_range
from gdpo_sr.types import OptionError

NAN = math.nan
RUNS = np.array([[1.0, 4.0, NAN], [3.0, 2.0, NAN]])
PROTOCOL = {
    "name": "custom", "metrics": ["up", "down"], "crop_border": 0, "with_reference": True,
    "colours": "8-bit RGB", "options": {},
}  # fmt: skip


def made(methods: dict[str, list[list[float]]]) -> Evaluation:
    """`up` is as given per method, run and picture; `down` is its negative."""
    runs = {}
    for method, scores in methods.items():
        runs[method] = [
            Run(
                f"{method}{i}",
                {f"p{j}": Path(f"{method}/p{j}.png") for j in range(len(row))},
                {f"p{j}": {"up": v, "down": -v} for j, v in enumerate(row)},
            )
            for i, row in enumerate(scores)
        ]
    infos = [MetricInfo("up", False), MetricInfo("down", True)]
    return Evaluation(PROTOCOL, {"pyiqa": "0"}, infos, runs)


def test_means_skip_what_has_no_score():
    np.testing.assert_equal(mean_over(RUNS, 0), [2.0, 3.0, NAN])
    np.testing.assert_equal(mean_over(RUNS, 1), [2.5, 2.5])
    assert math.isnan(mean_over(np.array([NAN])))


def test_std_over_runs():
    assert std_over_runs(np.array([1.0, 3.0])) == pytest.approx(math.sqrt(2))
    assert math.isnan(std_over_runs(np.array([1.0, NAN])))


def test_best_mean_worst_picks_per_picture():
    """Best of {1, 3} and {4, 2} is 3 and 4, so 3.5; worst 1 and 2, so 1.5."""
    assert best_mean_worst(RUNS, lower_better=False) == (3.5, 2.5, 1.5)
    assert best_mean_worst(RUNS, lower_better=True) == (1.5, 2.5, 3.5)
    assert all(math.isnan(v) for v in best_mean_worst(np.full((2, 2), NAN), True))


def test_bootstrap_interval_of_normal_differences():
    """Of 400 draws with standard deviation 1 the interval is about mean +- 1.96 / 20."""
    draws = np.random.default_rng(1).normal(0.3, 1.0, 400)
    low, high = bootstrap_interval(draws)
    half = 1.96 * draws.std(ddof=1) / 20
    assert (low, high) == pytest.approx((draws.mean() - half, draws.mean() + half), abs=0.01)
    assert bootstrap_interval(draws) == (low, high)
    assert bootstrap_interval(np.full(5, 2.0)) == (2.0, 2.0)
    assert all(math.isnan(v) for v in bootstrap_interval(np.array([1.0, NAN])))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """95 % in the limit; of 60 pictures slightly less, since a percentile interval is short."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=60)) for _ in range(100)]
    assert 88 <= sum(low <= 0 <= high for low, high in intervals) <= 100


def test_ranks():
    evaluation = made({"a": [[1, 2]], "b": [[3, 4]], "c": [[2, 3]], "d": [[3, 4]]})
    for metric in evaluation.metrics:
        ranks = {method: cell.rank for method, cell in cells(evaluation, metric).items()}
        assert ranks == {"a": 0, "b": 1, "c": 2, "d": 1}, metric.name
    two = made({"a": [[1]], "b": [[2]]})
    assert [cell.rank for cell in cells(two, two.metrics[0]).values()] == [0, 1]
    one = made({"a": [[1]]})
    assert cells(one, one.metrics[0])["a"].rank == 0


def test_equal_figures_share_a_rank():
    evaluation = made({"a": [[1.00001]], "b": [[1.00002]], "c": [[0.5]]})
    assert [c.rank for c in cells(evaluation, evaluation.metrics[0]).values()] == [1, 1, 2]


def test_differences_are_paired_and_on_common_pictures():
    evaluation = made({"base": [[1, 2, NAN]], "new": [[2, 4, 9]]})
    up, down = differences(evaluation, "base")
    assert (up.mean, up.better_on, up.count) == (1.5, 2, 2)
    assert (down.mean, down.better_on, down.count) == (-1.5, 2, 2)
    assert up.is_clear and not differences(evaluation, "new")[0].low > 0


def test_baseline_by_name():
    evaluation = made({"a": [[1]], "b": [[2]]})
    assert (choose_baseline(evaluation, None), choose_baseline(evaluation, "b")) == ("a", "b")
    with pytest.raises(OptionError, match="no such method; there are a, b"):
        choose_baseline(evaluation, "x")


def test_markdown_and_latex():
    evaluation = made({"a_1": [[1, 2], [2, 3]], "b": [[3, NAN]], "c|": [[5, 5]]})
    evaluation.metrics.append(MetricInfo("lost", True, missing="no weights"))
    text = tables.markdown(evaluation, "b")
    assert "| a_1 | 2 | 2.0000 ± 0.7071 |" in text
    assert "| b | 2 | <ins>3.0000</ins> (n=1) |" in text
    assert r"| c\| | 2 | **5.0000** | **-5.0000** | missing |" in text
    assert "| a_1 | best of 2 | 2.5000 | -2.5000 |" in text and "lost is missing" in text
    latex = tables.latex(evaluation)
    assert r"a\_1 & 2 & 2.0000 $\pm$ 0.7071" in latex and r"\textbf{5.0000}" in latex
    assert latex.count("&") == 4 * 4 and "% lost is missing: no weights" in latex


def test_json_round_trip(tmp_path: Path):
    evaluation = made({"a": [[1, NAN]], "b": [[2, 3]]})
    evaluation.methods["a"][0].problems["p1"] = "no score"
    save_json(tmp_path / "s.json", evaluation, {})
    assert "NaN" not in (tmp_path / "s.json").read_text()
    back = load_json(tmp_path / "s.json")
    np.testing.assert_equal(back.array("a", "up"), evaluation.array("a", "up"))
    assert back.metrics == evaluation.metrics and back.protocol == evaluation.protocol
    assert back.methods["a"][0].problems == {"p1": "no score"}


def test_natural_order():
    assert sorted(["s10", "s2", "a", "1"], key=natural_key) == ["1", "a", "s2", "s10"]
    assert [*range(3)] == sorted(range(3), key=lambda i: natural_key(f"{i}"))
    assert sorted(["\u00b2", "1"], key=natural_key) == ["1", "\u00b2"]  # a digit and no number


def test_runs_are_in_natural_order(tmp_path: Path):
    for run in ("seed10", "seed9"):
        (tmp_path / "m" / run).mkdir(parents=True)
        (tmp_path / "m" / run / "a.png").write_bytes(b"x")
    sources, saved = read_inputs([str(tmp_path / "m")])
    assert [path.name for path in sources["m"]] == ["seed9", "seed10"] and saved == []
    assert noise_range(made({"a": [[1], [2]], "b": [[1]]})).keys() == {"a"}


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.43, 0.89, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (20.3, 32.0, [20.0, 22.5, 25.0, 27.5, 30.0, 32.5]),
        (-3, 1, [-3.0, -2.0, -1.0, 0.0, 1.0]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]):
    assert plots.nice_ticks(low, high) == pytest.approx(expected)


def test_ticks_of_equal_scores_and_labels():
    ticks = plots.nice_ticks(5.0, 5.0)
    assert ticks[0] <= 5 <= ticks[-1] and len(ticks) > 1
    assert plots.tick_label(22.5, [20.0, 22.5]) == "22.5"
    assert plots.tick_label(20.0, [20.0, 30.0]) == "20"


def test_plot_without_scores_is_left_out():
    assert plots.distribution("t", {"a": np.array([NAN])}) == ""
    drawn = plots.distribution("t", {"<b>": np.array([1.0, 2.0, NAN]), "c": np.array([NAN])})
    assert drawn.count("<circle") == 2 and "&lt;b&gt;" in drawn


def test_most_different_pictures_come_first():
    evaluation = made({"a": [[1, 1, 1]], "b": [[1, 3, 2]]})
    order = pictures.score_differences(evaluation)
    assert list(order) == ["p1", "p2", "p0"] and order["p1"] == pytest.approx(2.0)
    assert list(pictures.score_differences(made({"a": [[3, 1]]}))) == ["p0", "p1"]


def test_window_where_pictures_differ_most():
    first = np.zeros((400, 300, 3), np.uint8)
    second = first.copy()
    second[250:350, 10:60] = 200
    rows, columns = pictures.window([first, second], side=128)
    assert rows.start <= 250 and rows.stop >= 350 and columns.start <= 10 and columns.stop >= 60
    assert rows.stop - rows.start == columns.stop - columns.start == 128
    whole = pictures.window([first[:100, :50], second[:100, :50]], side=128)
    assert whole == (slice(0, 100), slice(0, 50))


def test_page_escapes_names_and_asks_for_nothing():
    """A name of a folder cannot end the script or become an element; no address is in the page."""
    evaluation = made({"</script><b>x": [[1.0, 2.0]], "y": [[2.0, 2.0]]})
    page = render(evaluation, "y")
    assert "<b>x" not in page and page.count("</script>") == 2
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["methods"] == ["</script><b>x", "y"]
