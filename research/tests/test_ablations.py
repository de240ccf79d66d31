"""The ablations' arithmetic, plan and document, without any training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ablations
import numpy as np
import pytest
from ablation_study.document import write_document
from ablation_study.plan import Common, Job, Row, load_studies
from ablation_study.results import (
    SHIPPED,
    Results,
    base_digest,
    effective,
    identity,
    run_name,
)
from ablation_study.runner import Runner
from ablation_study.statistics import Difference, paired_difference, verdict
from ablations import planned, share_of

from gdpo_sr.config.load import load_options
from gdpo_sr.config.schema import NetworkOptions
from gdpo_sr.types import OptionError

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ROOT / "research" / "options"
COMMON = """
options: options/gdpo_sr.yml
base: weights
seeds: [0, 1]
evaluation:
  metrics: {psnr_y: {metric: psnr_y}, piqe: {metric: piqe}}
  sets: {photos: {dataroot_gt: datasets/example/val}}
tried: "Three learning rates."
about: "The old base."
findings: "PSNR rises."
"""
STUDY = """
title: Losses
question: Which one?
by_set: true
rows:
  gdpo: {}
  dpo: {force: ["train:cell_size=null", "train:loss={type: diffusion_dpo}"]}
claims:
  - {text: GDPO beats the base, source: a paper, better: gdpo, than: base}
  - {text: GDPO beats DPO, source: a paper, better: gdpo, than: dpo, metrics: [psnr_y]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "common.yml").write_text(COMMON)
    (tmp_path / "losses.yml").write_text(STUDY)
    return tmp_path


# Statistics


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_paired_difference_cancels_what_photos_share():
    """Photos differ by 10, the runs by 0.5 +- 0.1: the interval is that of the difference."""
    theirs = 10 * draw(1, 40) + np.zeros((3, 40))
    ours = theirs + 0.5 + 0.1 * draw(3, 40, seed=1)
    found = paired_difference(ours, theirs, lower_better=False)
    assert found.mean == pytest.approx(np.mean(ours - theirs)) and found.better
    assert 0.4 < found.low < found.mean < found.high < 0.6
    turned = paired_difference(ours, theirs, lower_better=True)
    assert turned.worse and turned.mean == pytest.approx(-found.mean)


def test_seeds_count_as_well_as_photos():
    """Runs that differ more than photos do: the interval must be about as wide as they differ."""
    gaps = np.array([[-1.0], [0.0], [1.0]]) + 0.01 * draw(3, 50)
    found = paired_difference(gaps, np.zeros((3, 50)), lower_better=False)
    assert found.low < -0.5 and found.high > 0.5
    assert not found.better and not found.worse


def test_missing_scores_are_left_out():
    gaps = np.full((2, 5), 1.0)
    gaps[0, 1] = np.nan
    found = paired_difference(gaps, np.zeros((1, 5)), lower_better=False)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert np.isnan(paired_difference(gaps[:, :1], np.zeros((1, 1)), False).mean)


@pytest.mark.parametrize(
    ("intervals", "text"),
    [
        ([(1, 2), (0.1, 3)], "holds"),
        ([(-2, -1), (-1, 1)], "does not hold"),
        ([(1, 2), (-2, -1)], "holds for some metrics, is reversed for others"),
        ([(1, 2), (-1, 1)], "holds for some metrics, undecided for others"),
        ([(-1, 1)], "undecided"),
    ],
)
def test_verdicts(intervals: list[tuple[float, float]], text: str):
    assert verdict([Difference(sum(i) / 2, *i) for i in intervals]) == text


# Plan


@pytest.mark.parametrize("tune", [False, True])
def test_every_row_of_every_study_is_a_valid_run(tune: bool):
    common, studies = load_studies(OPTIONS, [], tune)
    assert len(studies) == (4 if tune else 7)
    for study in studies:
        for job in study.jobs(seed=0):
            options = job.options(common)
            control = options.train.control == "permuted_advantages"
            assert control == job.control and options.manual_seed == 0
            assert not (tune and control)
            if job.row.control and job.row.train and not tune and study.controls:
                assert options.train.loss.type != "reward_gradient"


def test_every_rl_row_has_its_control_and_the_same_budget():
    common, studies = load_studies(OPTIONS, [], False)
    for study in studies:
        trained = [job for job in study.jobs(seed=0) if job.row.train]
        beside = [j for j in trained if study.has_control(j.row)]
        assert [j.control for j in beside] == [False, True] * (len(beside) // 2), study.name
        alone = {job.options(common).train.loss.type for job in trained if job not in beside}
        assert not study.controls or alone <= {"reward_gradient"}, study.name
        budgets = set()
        for job in trained:
            o = job.options(common)
            updates = o.train.total_iter * o.train.accumulation
            budgets.add(updates * o.datasets.train.batch_size * o.train.group_size)
        more = {4800} if study.name == "g_budget" else set()
        assert budgets == {1200} | more, study.name


def test_same_setting_is_one_run_and_another_base_another():
    names = ["a_main_job", "c_losses", "e_questions"]
    common, studies = load_studies(OPTIONS, names, False)
    (shipped, *_), (gdpo, control, dpo, *_), (same, *_) = (s.jobs(seed=0) for s in studies)
    assert shipped.study != same.study and run_name(shipped, common) == run_name(same, common)
    jobs = [gdpo, control, dpo, replace(gdpo, seed=1)]
    assert len({run_name(job, common) for job in jobs}) == 4
    other = common.model_copy(update={"base": "other weights"})
    assert run_name(gdpo, other) != run_name(gdpo, common)


def test_one_training_is_measured_at_several_steps_and_scales():
    common, [losses, study] = load_studies(OPTIONS, ["c_losses", "d_curves"], False)
    jobs = [study.job(name, 0) for name in ("gdpo_1", "gdpo_t325", "gdpo_0.5", "gdpo_4")]
    jobs.append(losses.job("gdpo", 0))
    assert len({run_name(job, common) for job in jobs}) == 1
    assert len({json.dumps(identity(job, common)) for job in jobs}) == 4
    assert identity(jobs[0], common) == identity(jobs[-1], common)


def test_words_count_in_any_order_and_the_last_of_a_key():
    words = ["b=2", "a=x", "b=1"]
    assert effective(words) == effective(["a=x", "b=1"]) == ["a=x", "b=1"]
    assert effective([f"path={ROOT}/datasets"]) == ["path=datasets"]


def test_shares_split_the_runs_and_keep_equal_ones_together():
    common, studies = load_studies(OPTIONS, [], False)
    shares = [planned(common, studies, share_of(f"{k}/3")) for k in (1, 2, 3)]
    names = [{run_name(job, common) for job in share} for share in shares]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    sizes = sorted(map(len, names))
    assert sizes == [43, 44, 44]
    assert sum(sizes) == len({run_name(job, common) for job in planned(common, studies, (0, 1))})
    together = planned(common, studies, share_of("1/1"))
    assert {job.label for share in shares for job in share} == {job.label for job in together}
    assert [job.seed for job in together] == sorted(job.seed for job in together)


@pytest.mark.parametrize(
    "study, row, file",
    [("a_main_job", "main_job", "gdpo_sr.yml"), ("b_crisp", "crisp", "gdpo_sr_crisp.yml")],
)
def test_studies_on_todays_base_run_the_shipped_files(study: str, row: str, file: str):
    """All but precision, threads, names and what is measured while training."""
    common, [found] = load_studies(OPTIONS, [study], False)
    ours = found.job(row, 0).options(common)
    force = ["num_threads=1", "train:mixed_precision=bf16", f"name={ours.name}"]
    assert ours == load_options(ROOT / "options" / file, force)


def test_a_study_may_have_seeds_of_its_own(folder: Path):
    (folder / "more.yml").write_text(STUDY + "seeds: [1, 5]\n")
    common, studies = load_studies(folder, [], False)
    jobs = planned(common, studies, (0, 1))
    found = {name: {job.seed for job in jobs if job.study == name} for name in ("losses", "more")}
    assert found == {"losses": {0, 1}, "more": {1, 5}}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_wrong_share_is_refused(text: str):
    with pytest.raises(OptionError, match="write K/N"):
        share_of(text)


def test_tuning_photos_are_degraded_strongly_and_lightly(tmp_path: Path):
    common, _ = load_studies(OPTIONS, [], True)
    tuning = common.with_folders(tmp_path / "a", tmp_path / "b")
    heavy, light = tuning.evaluation.sets.values()
    assert heavy.dataroot_gt == light.dataroot_gt == str(tmp_path / "b")
    assert (heavy.degradation.light_prob, light.degradation.light_prob) == (0, 1)
    assert len(tuning.seeds) == 1 and len(common.seeds) == 3


def scores_of(common: Common, **values: float) -> dict:
    return {name: {m: [v] for m, v in values.items()} for name in common.evaluation.sets}


def test_shipped_measurements_count_and_new_ones_go_before(folder: Path, tmp_path: Path):
    common, [study] = load_studies(folder, [], False)
    job = study.job("dpo", 0)
    shipped = Results(tmp_path / "old", tmp_path / "none")
    shipped.write(job, common, {"scores": scores_of(common, psnr_y=1.0, piqe=2.0)})
    results = Results(tmp_path / "new", shipped.table)
    assert results.read(job, common)["scores"]["photos"]["psnr_y"] == [1.0]
    assert results.read(job.as_control(), common) is None
    results.write(job, common, {"scores": scores_of(common, psnr_y=3.0, piqe=2.0)})
    again = Results(tmp_path / "new", shipped.table)
    assert again.read(job, common)["scores"]["photos"]["psnr_y"] == [3.0]
    assert len(again.of_base("weights")) == 1 and again.of_base("others") == []


def test_a_measurement_without_a_metric_or_a_set_does_not_count(folder: Path, tmp_path: Path):
    common, [study] = load_studies(folder, [], False)
    job, results = study.job("dpo", 0), Results(tmp_path / "new", tmp_path / "none")
    results.write(job, common, {"scores": scores_of(common, psnr_y=1.0)})
    assert results.read(job, common) is None
    results.write(job, common, {"scores": scores_of(common, psnr_y=1.0, piqe=2.0)})
    assert results.read(job, common) is not None
    sets = {**common.evaluation.sets, "more": common.evaluation.sets["photos"]}
    assert results.read(job, common.with_sets(sets)) is None
    assert list(common.with_sets(sets).only_sets(["more"]).evaluation.sets) == ["more"]
    with pytest.raises(OptionError, match="--sets nonsense: known: photos"):
        common.only_sets(["nonsense"])


def test_other_weights_are_refused_before_any_training(folder: Path, tmp_path: Path):
    common, [study] = load_studies(folder, [], False)
    with pytest.raises(OptionError, match="base = weights, the weights here are [0-9a-f]{12}: "):
        Runner(common, Results(tmp_path, tmp_path / "none")).run(study.job("gdpo", 0))
    assert not (tmp_path / "runs").exists()


def test_the_shipped_table_answers_every_study():
    """Sorted, a row once, and nothing that no study asks for."""
    lines = SHIPPED.read_text().splitlines()
    rows = list(map(json.loads, lines))
    assert lines == sorted(lines)
    common, studies = load_studies(OPTIONS, [], False)
    jobs = [s.job(n, seed) for s in studies for n in s.rows for seed in common.seeds_of(s)]
    jobs += [Job.base(), *(job.as_control() for job in jobs)]
    asked = {json.dumps(identity(job, common)) for job in jobs}
    measured = [json.dumps({k: row[k] for k in identity(Job.base(), common)}) for row in rows]
    assert len(set(measured)) == len(measured) and set(measured) <= asked


def test_mistakes_are_named(folder: Path):
    with pytest.raises(OptionError, match="no study nonsense in .*known: losses"):
        load_studies(folder, ["nonsense"], False)
    (folder / "losses.yml").write_text(STUDY.replace("than: dpo", "than: dop"))
    with pytest.raises(OptionError, match="claim names row 'dop', known: gdpo, dpo, base"):
        load_studies(folder, [], False)
    (folder / "losses.yml").write_text(STUDY.replace("rows:", "rwos:"))
    with pytest.raises(OptionError, match=r"rwos.*did you mean rows\?"):
        load_studies(folder, [], False)


# Runs


def test_a_study_runs_from_nothing_and_is_not_run_again(base: Path, tmp_path: Path):
    """One update of two candidates, its control, the base, and the document of them."""
    digest = base_digest(NetworkOptions(base=str(base)))
    words = ["train:total_iter=1", "train:group_size=2", "datasets:train:gt_size=64"]
    common = {
        "options": "options/gdpo_sr.yml",
        "base": digest,
        "seeds": [0],
        "force": [*words, f"network_g:base={base}"],
        "evaluation": {
            "metrics": {"psnr_y": {"metric": "psnr_y"}},
            "sets": {"photos": {"dataroot_gt": "datasets/example/val", "gt_size": 64}},
        },
    }
    (tmp_path / "common.yml").write_text(json.dumps(common))  # JSON is YAML
    (tmp_path / "one.yml").write_text("title: One\nquestion: Any?\nrows: {gdpo: {}}\n")
    file, table = tmp_path / "document.md", tmp_path / "out" / "scores.jsonl"
    command = ["--options", str(tmp_path), "--out", str(tmp_path / "out"), "--document", str(file)]
    assert ablations.main(command) == 0
    assert len(table.read_text().splitlines()) == 3
    assert "| gdpo | 1 | psnr_y R |" in file.read_text()
    before = table.read_text()
    assert ablations.main(command) == 0
    assert table.read_text() == before


# Document


def measure(runner: Runner, job: Job, psnr: float, piqe: float) -> None:
    """Write what a run of these figures would leave."""
    noise = 0.01 * draw(6, seed=job.seed + 10 * job.control)
    scores = {"psnr_y": psnr + noise, "piqe": piqe + noise}
    scores |= {name: 0.1 + 0 * noise for name in ("edge_density", "high_frequency", "latent_grid")}
    values = {
        "rewarded": ["psnr_y", "piqe"],
        "seconds_training": 60.0,
        "seconds_measuring": 6.0,
        "scores": {"photos": {name: list(v) for name, v in scores.items()}},
    }
    runner.results.write(job, runner.common, values)


def test_document_says_what_was_measured(folder: Path, tmp_path: Path):
    """GDPO gains PSNR that its control does not; PIQE falls as far under the control."""
    common, studies = load_studies(folder, [], False)
    runner = Runner(common, Results(tmp_path / "results", tmp_path / "none"))
    file = tmp_path / "document" / "evidence.md"
    write_document(file, runner, studies)
    assert "Nothing has been measured yet" in file.read_text()

    measure(runner, Job.base(), 25.0, 50.0)
    for seed in (0, 1):
        for job in studies[0].jobs(seed):
            gdpo = job.name == "gdpo"
            measure(runner, job, 25.3 if gdpo and not job.control else 25.0, 40.0)
    write_document(file, runner, studies)
    text = file.read_text()
    gain, net = next(
        line for line in text.splitlines() if line.startswith("| gdpo | 2 | psnr_y R")
    ).split("|")[6:8]
    assert gain.strip().startswith("**+0.3") and net.strip().startswith("**+0.3")
    piqe = next(line for line in text.splitlines() if line.startswith("| gdpo | 2 | piqe R"))
    assert "**+10 " in piqe.split("|")[6] and "**" not in piqe.split("|")[7]
    claims = [line for line in text.splitlines() if line.startswith("| GDPO beats")]
    assert "holds, but the reward did not cause all of it (control)" in claims[0]
    assert "| holds: psnr_y **+0.3" in claims[1]
    assert "Three learning rates." in text and "The old base." in text and "PSNR rises." in text
    pooled, alone = text.split("Photos `photos` alone:")[0:2]
    assert "| gdpo | 2 | psnr_y R" in pooled and "| gdpo | 2 | psnr_y R" in alone
    assert (file.parent / "losses.png").is_file()
    assert all(runner.is_done(job) for job in studies[0].jobs(0))
    more = studies[0].model_copy(update={"rows": {**studies[0].rows, "other": Row(t_add=7)}})
    write_document(file, runner, [more])
    assert "\nNot run: other.\n" in file.read_text() and "| other |" not in file.read_text()


def test_curves_join_rows_and_times_are_told(folder: Path, tmp_path: Path):
    curves = """
title: Curves
question: Where to?
controls: false
seeds: [0]
rows:
  half: {line: gdpo, lora_scale: 0.5}
  whole: {line: gdpo}
"""
    (folder / "curves.yml").write_text(curves)
    common, [study] = load_studies(folder, ["curves"], False)
    runner = Runner(common, Results(tmp_path / "results", tmp_path / "none"))
    measure(runner, Job.base(), 25.0, 50.0)
    for job, psnr in zip(study.jobs(0), (25.1, 25.2), strict=True):
        measure(runner, job, psnr, 45.0)
    file = tmp_path / "evidence.md"
    write_document(file, runner, [study])
    assert "Seconds of training: half 60, whole 60." in file.read_text()
    assert "| half | 1 | psnr_y R | 25 | 25.1 |" in file.read_text()
    assert (tmp_path / "curves.png").is_file()


def test_a_run_may_have_a_name_that_looks_like_a_number(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """94522e385333 was read as 9e385337, which is no finite number."""
    common, [study] = load_studies(folder, [], False)
    runner = Runner(common, Results(tmp_path, tmp_path / "none"))
    monkeypatch.setattr(runner, "_folder", lambda job: tmp_path / "94522e385333")
    assert runner._options(study.job("gdpo", 0)).name == "94522e385333"
