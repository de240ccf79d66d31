"""evaluate.py on real folders: tables, files, runs of one method, and what goes wrong."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gdpo_sr.evaluate import main
from gdpo_sr.metrics import SetMetric
from gdpo_sr.types import DatasetError, MetricError, OptionError
from gdpo_sr.utils.image_io import read_image, write_image


def write_results(folder: Path, truth: Path, strength: float, seed: int = 0) -> Path:
    """Noisy copies of all pictures of `truth`."""
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(truth.iterdir()):
        image = read_image(path)
        noise = strength * torch.randn(image.shape, generator=generator)
        write_image(folder / path.name, (image + noise).clamp(0, 1))
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Three pictures of 96x96 in squares of 8 pixels."""
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two", "three"):
        coarse = torch.rand(3, 12, 12, generator=generator)
        image = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        write_image(tmp_path / "gt" / f"{name}.png", image)
    return tmp_path / "gt"


@pytest.fixture
def results(tmp_path: Path, truth: Path) -> Path:
    return write_results(tmp_path / "results", truth, 0.05)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_one_method(results: Path, truth: Path, tmp_path: Path, capsys):
    saved = tmp_path / "new" / "scores.json"
    assert run("-i", results, "-g", truth, "--save_json", saved) == 0
    output = capsys.readouterr().out
    assert output.startswith("Protocol offline: 8-bit RGB") and "no crop" in output
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}
    assert [rows[name][1] for name in ("psnr_y", "niqe")] == ["↑", "↓"]
    assert all(rows[name][-1] == "3" for name in ("psnr_y", "ssim_y", "niqe", "piqe"))
    content = json.loads(saved.read_text())
    images = content["methods"]["results"][0]["images"]
    assert list(images) == ["one", "three", "two"]
    scores = [image["scores"]["psnr_y"] for image in images.values()]
    mean = content["summary"]["means"]["results"]["psnr_y"]
    assert mean["mean"] == pytest.approx(sum(scores) / 3) and mean["n"] == 3
    assert content["protocol"]["options"]["psnr_y"]["color_space"] == "ycbcr"
    assert content["versions"]["pyiqa"] and content["protocol"]["crop_border"] == 0
    assert [p.name for p in saved.parent.iterdir()] == ["scores.json"]


def test_several_methods_and_runs(truth: Path, tmp_path: Path, capsys):
    for name, strength in (("weak/s0", 0.02), ("weak/s1", 0.03), ("strong", 0.1)):
        write_results(tmp_path / name, truth, strength, seed=len(name))
    more = write_results(tmp_path / "other", truth, 0.05)
    status = run(
        "-i", f"third={more}", tmp_path / "weak", tmp_path / "strong", "-g", truth,
        "--metrics", "psnr_y", "gmsd", "--baseline", "third", "--save", tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {name: len(runs) for name, runs in content["methods"].items()} == {
        "strong": 1, "third": 1, "weak": 2,
    }  # fmt: skip
    summary = content["summary"]
    assert summary["means"]["weak"]["psnr_y"]["std_over_runs"] > 0
    assert summary["means"]["strong"]["psnr_y"]["std_over_runs"] is None
    noises = summary["noises"]["weak"]["psnr_y"]
    assert noises["best"] > noises["mean"] > noises["worst"]
    gaps = {(g["method"], g["metric"]): g for g in summary["differences"]}
    assert summary["baseline"] == "third" and len(gaps) == 4
    gap = gaps["weak", "psnr_y"]
    assert 0 < gap["low"] <= gap["mean"] <= gap["high"] and gap["better_on"] == gap["count"] == 3
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and rows[0]["method"] == "strong" and float(rows[0]["psnr_y"]) > 10
    assert "| weak | 3 | **" in (tmp_path / "out" / "table.md").read_text()
    assert r"\textbf{" in (tmp_path / "out" / "table.tex").read_text()
    output = capsys.readouterr().out
    assert "minus third" in output and "worst" in output


def test_order_never_matters(truth: Path, tmp_path: Path, capsys):
    """Any order of the arguments gives the same bytes of every file, the report included."""
    a, b = (write_results(tmp_path / name, truth, s) for name, s in (("a", 0.02), ("b", 0.1)))
    c = write_results(tmp_path / "c", truth, 0.05, seed=1)
    orders = [[f"x={a}", b, f"x={c}"], [f"x={c}", f"x={a}", b]]
    written = []
    for index, order in enumerate(orders):
        folder = tmp_path / f"out{index}"
        assert run("-i", *order, "-g", truth, "--metrics", "psnr_y", "--report", folder) == 0
        output = capsys.readouterr().out.replace(str(folder), "")
        written.append([output, *(path.read_bytes() for path in sorted(folder.iterdir()))])
    assert len(written[0]) == 6 and written[0] == written[1]


def test_two_folders_of_one_name(truth: Path, tmp_path: Path):
    folders = [write_results(tmp_path / part / "out", truth, 0.1) for part in ("a", "b")]
    with pytest.raises(OptionError, match="two folders are called 'out'; give names"):
        run("-i", *folders, "-g", truth)
    with pytest.raises(OptionError, match="twice"):
        run("-i", f"x={folders[0]}", f"x={folders[0]}", "-g", truth)


def test_saved_scores_are_compared_and_protocols_checked(
    results: Path, truth: Path, tmp_path: Path, capsys
):
    a, b, other = (tmp_path / f"{name}.json" for name in ("a", "b", "other"))
    named = [f"first={results}", "-g", truth]
    run("-i", *named, "--metrics", "psnr_y", "gmsd", "--save_json", a)
    strong = write_results(tmp_path / "strong", truth, 0.2)
    # the folder is scored under the protocol of the file beside it
    assert run("-i", a, strong, "-g", truth, "--save_json", b) == 0
    assert set(json.loads(b.read_text())["methods"]) == {"first", "strong"}
    assert "*" in capsys.readouterr().out
    with pytest.raises(OptionError, match="ground truth; give it with -g"):
        run("-i", a, strong)
    with pytest.raises(OptionError, match="'first' is in two files"):
        run("-i", a, b)
    for change in (["--crop_border", "4"], []):
        metrics = ["psnr_y", "gmsd"] if change else ["psnr_y"]
        run("-i", f"second={strong}", "-g", truth, "--metrics", *metrics, *change,
            "--save_json", other)  # fmt: skip
        with pytest.raises(OptionError, match="different protocols cannot be compared"):
            run("-i", a, other)
    a.write_text("{}")
    with pytest.raises(OptionError, match="a.json is no file of scores"):
        run("-i", a)


def test_without_ground_truth(results: Path, capsys):
    assert run("-i", results) == 0
    table = capsys.readouterr().out
    assert "niqe" in table and "psnr_y " not in table and "no ground truth" in table
    with pytest.raises(OptionError, match="psnr_y: needs a reference.*-g"):
        run("-i", results, "--metrics", "piqe", "psnr_y")


def test_single_pictures_of_any_name(results: Path, truth: Path, capsys):
    assert run("-i", results / "one.png", "-g", truth / "one.png", "--metrics", "psnr_y") == 0
    (results / "one.png").rename(results / "enlarged.png")
    arguments = ["-i", results / "enlarged.png", "-g", truth / "one.png", "--metrics", "psnr_y"]
    assert run(*arguments) == 0
    assert "enlarged" in capsys.readouterr().out


def test_crop_border(truth: Path, tmp_path: Path):
    """A wrong frame of 4 pixels does not count when 4 pixels are cropped."""
    for path in truth.iterdir():
        image = read_image(path)
        image[:, :4] = image[:, -4:] = 0
        write_image(tmp_path / "framed" / path.name, image)
    saved = tmp_path / "scores.json"
    arguments = ["-i", tmp_path / "framed", "-g", truth, "--metrics", "psnr_y"]
    run(*arguments, "--save_json", saved, "--crop_border", "4")
    mean = json.loads(saved.read_text())["summary"]["means"]["framed"]["psnr_y"]["mean"]
    assert mean == pytest.approx(80, abs=1e-3)
    with pytest.raises(OptionError, match="-1"):
        run(*arguments, "--crop_border", "-1")


def test_bad_pictures_do_not_stop_the_others(results: Path, truth: Path, tmp_path: Path, capsys):
    content = (results / "one.png").read_bytes()
    (results / "one.png").write_bytes(content[: len(content) // 2])
    write_image(results / "two.png", torch.rand(3, 64, 80))
    saved = tmp_path / "scores.json"
    arguments = ["-i", results, "-g", truth, "--metrics", "psnr_y", "--save_json", saved]
    assert run(*arguments, "--report", tmp_path / "report") == 1
    for name in ("table.md", "index.html"):
        text = (tmp_path / "report" / name).read_text()
        assert "results: 1 of 3: cannot read" in text and "80x64 differs from 96x96" in text
    errors = capsys.readouterr().err
    assert "one: cannot read" in errors and "80x64 differs from 96x96" in errors
    written = json.loads(saved.read_text())
    assert written["summary"]["means"]["results"]["psnr_y"]["n"] == 1
    assert set(written["methods"]["results"][0]["problems"]) == {"one", "two"}
    assert (tmp_path / "report" / "index.html").is_file()


def test_picture_without_a_score_is_listed(tmp_path: Path, capsys):
    """NIQE needs 96 pixels; the JSON file says null, which NaN is not."""
    write_image(tmp_path / "r" / "small.png", torch.rand(3, 32, 32))
    saved = tmp_path / "scores.json"
    assert run("-i", tmp_path / "r", "--metrics", "niqe", "--save_json", saved) == 1
    output = capsys.readouterr()
    reason = "no score of niqe (needs 96 pixels a side, this has 32x32)"
    assert f"small: {reason}" in output.err and "no score" in output.out
    assert "NaN" not in saved.read_text()


@pytest.mark.usefixtures("no_weights")
def test_metrics_without_weights_stay_in_the_table(
    results: Path, truth: Path, tmp_path: Path, capsys
):
    arguments = ["-i", results, "-g", truth, "--save", tmp_path / "out"]
    assert run(*arguments, "--metrics", "psnr_y", "musiq", "fid") == 1
    output = capsys.readouterr().out
    assert output.count("missing") == 4 and "missing fid: no weights on this machine" in output
    assert "musiq is missing: no weights" in (tmp_path / "out" / "table.md").read_text()
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert "--allow_download" in saved["metrics"]["musiq"]["missing"]
    with pytest.raises(MetricError, match="no metric can be computed: musiq"):
        run(*arguments, "--metrics", "musiq")


def test_a_metric_that_fails_on_some_pictures(
    results: Path, truth: Path, tmp_path: Path, monkeypatch, capsys
):
    """The mean is of the others, and n says so beside it."""
    from gdpo_sr.metrics import Metric

    def no_score_of_dark_ones(images, references):
        scores = images.mean(dim=(1, 2, 3))
        return torch.where(scores < 0.495, torch.nan, scores)

    made = Metric("vif", no_score_of_dark_ones, False, True)
    monkeypatch.setattr("gdpo_sr.evaluation.scoring.create_metric", lambda *a: made)
    good = write_results(tmp_path / "good", truth, 0.0)
    for path in good.iterdir():
        write_image(path, read_image(path).mul(0.5).add(0.5))
    arguments = ["-i", results, good, "-g", truth, "--metrics", "vif", "--save", tmp_path / "out"]
    assert run(*arguments) == 1
    count = 3 - capsys.readouterr().err.count("no score of vif")
    assert 0 < count < 3
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"(n={count})" in table and "(n=3)" not in table


def test_names_must_match(results: Path, truth: Path, tmp_path: Path):
    other = write_results(tmp_path / "other", truth, 0.1)
    (results / "two.png").rename(results / "deux.png")
    with pytest.raises(DatasetError, match="lacks 1.*deux.*results lacks 1 .two."):
        run("-i", results, other, "-g", truth)


def test_same_stem_twice(results: Path, truth: Path):
    write_image(results / "one.jpg", torch.rand(3, 8, 8))
    with pytest.raises(DatasetError, match="same stem"):
        run("-i", results, "-g", truth)


def test_missing_folder(tmp_path: Path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        run("-i", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--protocol", "gdpo", "--metrics", "niqe"], "contradict"),
        (["--baseline", "x", "--metrics", "psnr_y"], "no such method; there are results"),
    ],
)
def test_bad_options(results: Path, truth: Path, options: list[str], reason: str):
    with pytest.raises(OptionError, match=reason):
        run("-i", results, "-g", truth, *options)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, whatever this machine has."""
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_set_metric_gets_the_listed_files_alone(results: Path, truth: Path):
    """pyiqa's FID takes folders and walks through them; here a stand-in that counts."""

    def counts(gt: str, made: str, **options: object) -> float:
        sizes = [len(list(Path(folder).rglob("*.png"))) for folder in (gt, made)]
        return float(sizes[0] * 10 + sizes[1])

    metric = SetMetric("fid", counts, True)
    write_image(truth / "more" / "another.png", torch.rand(3, 8, 8))
    gt, made = (sorted(folder.glob("*.png")) for folder in (truth, results))
    assert metric(made, gt) == metric(made[::-1], gt[::-1]) == 33
    assert math.isnan(metric(made[:1], gt[:1]))


def test_set_metric_that_fails_is_missing(results: Path, truth: Path, monkeypatch, capsys):
    """SciPy 1.18 takes away what pyiqa's FID calls: the other metrics keep their scores."""

    def fails(*folders: str, **options: object) -> float:
        raise TypeError("sqrtm() got an unexpected keyword argument 'disp'")

    monkeypatch.setattr(
        "gdpo_sr.evaluation.scoring.create_set_metric", lambda *a: SetMetric("fid", fails, True)
    )
    assert run("-i", results, "-g", truth, "--metrics", "psnr_y", "fid") == 1
    assert "missing fid: it failed (TypeError: sqrtm" in capsys.readouterr().out


def test_endings_of_names(results: Path, truth: Path, tmp_path: Path, capsys):
    """one_x4.png is the result of one.png, where all results end so."""
    for path in sorted(results.iterdir()):
        path.rename(results / f"{path.stem}_x4.png")
    other = write_results(tmp_path / "other", truth, 0.1)
    saved = tmp_path / "scores.json"
    arguments = ["-i", results, other, "-g", truth, "--metrics", "psnr_y", "--save_json", saved]
    assert run(*arguments) == 0
    assert "results: names without their ending '_x4'" in capsys.readouterr().err
    images = json.loads(saved.read_text())["methods"]["results"][0]["images"]
    assert list(images) == ["one", "three", "two"]
    assert images["one"]["file"].endswith("results/one_x4.png")
    (results / "two_x4.png").rename(results / "two_out.png")
    with pytest.raises(DatasetError, match="names do not match.*--allow_missing"):
        run(*arguments)


def test_trees(results: Path, truth: Path, tmp_path: Path):
    """With -r a name is a place in the tree; maps of the spread are no results."""
    for folder in (results, truth):
        (folder / "deep").mkdir()
        (folder / "one.png").rename(folder / "deep" / "two.png")
    write_image(results / "uncertainty" / "two.png", torch.rand(3, 8, 8))
    (results / "manifest.jsonl").touch()
    saved = tmp_path / "scores.json"
    arguments = ["-i", results, "-g", truth, "--metrics", "psnr_y", "--save_json", saved]
    assert run(*arguments, "--recursive") == 0
    written = json.loads(saved.read_text())["methods"]["results"]
    assert list(written[0]["images"]) == ["deep/two", "three", "two"]


def test_what_is_missing_may_be_left_out(results: Path, truth: Path, tmp_path: Path, capsys):
    other = write_results(tmp_path / "other", truth, 0.1)
    (results / "two.png").unlink()
    write_image(other / "extra.png", torch.rand(3, 8, 8))
    saved = tmp_path / "scores.json"
    arguments = ["-i", results, other, "-g", truth, "--metrics", "psnr_y", "--save_json", saved]
    with pytest.raises(DatasetError, match="lacks 2 .extra, two.*--allow_missing"):
        run(*arguments)
    assert run(*arguments, "--allow_missing") == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.endswith("2 pictures, 2 left out that some folder lacks")
    assert json.loads(saved.read_text())["left_out"] == ["extra", "two"]
    assert run("-i", saved, "--save", tmp_path / "again") == 0
    assert "2 left out" in (tmp_path / "again" / "table.md").read_text()


def test_one_picture_has_no_interval(results: Path, truth: Path, tmp_path: Path, capsys):
    """It said [+nan, +nan]."""
    other = write_results(tmp_path / "other", truth, 0.1)
    for folder in (results, other, truth):
        for name in ("two", "three"):
            (folder / f"{name}.png").unlink()
    arguments = ["-i", results, other, "-g", truth, "--metrics", "psnr_y"]
    assert run(*arguments, "--report", tmp_path / "out") == 0
    texts = [(tmp_path / "out" / name).read_text() for name in ("table.md", "index.html")]
    texts.append(capsys.readouterr().out)
    for text in texts:
        assert "none of 1 picture" in text and "nan" not in text.lower().replace("nanoseconds", "")


def test_empty_paths(results: Path, truth: Path):
    with pytest.raises(DatasetError, match="-i: an empty path was given"):
        run("-i", "", "-g", truth)
    with pytest.raises(OptionError, match="-g '': give the picture"):
        run("-i", results, "-g", "")


def test_names_that_are_not_utf8(results: Path, truth: Path, tmp_path: Path):
    """The evaluation ran, and then its result was lost."""
    name = os.fsdecode(b"caf\xe9.png")
    for folder in (results, truth):
        (folder / "one.png").rename(folder / name)
    content = (results / name).read_bytes()
    (results / name).write_bytes(content[: len(content) // 2])
    script = "import sys; from gdpo_sr.evaluate import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "-i", results, "-g", truth, "--metrics", "psnr_y"]
    words += ["--report", tmp_path / "out"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1 and "caf\\udce9: cannot read" in done.stderr, done.stderr
    names = json.loads((tmp_path / "out" / "scores.json").read_text())["methods"]["results"][0]
    assert Path(name).stem in names["images"]
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_names_are_no_markup(truth: Path, tmp_path: Path):
    """Neither in Markdown nor on the page."""
    folder = write_results(tmp_path / "x", truth, 0.1)
    name = "<b>|`x`"
    arguments = ["-i", f"{name}={folder}", "-g", truth, "--metrics", "psnr_y"]
    assert run(*arguments, "--report", tmp_path / "out") == 0
    assert r"| \<b\>\|\`x\` | 3 |" in (tmp_path / "out" / "table.md").read_text()
    assert "<b>|" not in (tmp_path / "out" / "index.html").read_text().split("</table>")[0]
