"""Options files: what is accepted, and what the user reads when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gdpo_sr.config import schema_file
from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.config.load import dump_options, load_options, resolve_folder
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.types import OptionError

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = sorted((REPOSITORY / "options").glob("*.yml"))
MINIMAL = """\
name: test
datasets:
  train: {dataroot_gt: photos}
  val: {dataroot_gt: photos}
train:
  reward:
    fidelity:
      psnr_y: {metric: psnr_y}
"""
STAGE1 = """\
name: test
model_type: NAOSDModel
datasets:
  train: {dataroot_gt: photos}
  val: {dataroot_gt: photos}
"""


@pytest.fixture
def minimal(tmp_path) -> Path:
    file = tmp_path / "options" / "test.yml"
    file.parent.mkdir()
    file.write_text(MINIMAL)
    return file


@pytest.fixture
def stage1(minimal) -> Path:
    return rewritten(minimal, MINIMAL, STAGE1)


def problems(file: Path, *overrides: str) -> list[str]:
    """Lines of the error that the options give."""
    with pytest.raises(OptionError) as caught:
        load_options(file, overrides)
    return str(caught.value).split("\n")


def rewritten(file: Path, old: str, new: str) -> Path:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_options_file_parses_and_round_trips(file, tmp_path):
    first_line, second_line, *_ = file.read_text().splitlines()
    schema = first_line.removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / schema).resolve() == REPOSITORY / "options" / "schema.json"
    assert second_line.startswith("# ")
    options = load_options(file)
    copy = tmp_path / "copy.yml"
    copy.write_text(dump_options(options))
    assert load_options(copy) == options


def test_the_papers_setting():
    options = load_options(REPOSITORY / "options" / "gdpo_sr_sd21.yml")
    train = options.train
    assert (train.total_iter, train.group_size, train.loss.omega) == (1500, 6, 5000.0)
    assert (train.optim_g.lr, train.lora.rank, train.target) == (5e-5, 4, "noise")
    assert (options.network_g.t_add, options.network_g.t_diff) == (250, 100)
    assert train.mixed_precision == "bf16" and options.datasets.train.gt_size == 512


def test_the_papers_setting_of_stage_1():
    options = load_options(REPOSITORY / "options" / "naosd_sd21.yml")
    train, losses = options.train, options.train.losses
    batch = options.datasets.train.batch_size * train.accumulation * 4
    assert (train.total_iter, batch, train.lora.rank) == (35000, 16, 4)
    assert (train.optim_g.lr, train.optim_g.betas, train.grad_clip) == (5e-5, (0.9, 0.999), 1.0)
    weights = (losses.reconstruction.weight, losses.perceptual["lpips"].weight, losses.vsd.weight)
    assert weights == (1, 2, 1) and losses.reconstruction.type == "mse"
    assert (losses.vsd.cfg_scale, losses.vsd.min_step, losses.vsd.max_step) == (7.5, 0.02, 0.5)
    assert (options.network_g.t_add, options.network_g.t_diff) == (250, 100)


def test_defaults_of_stage_1_are_the_papers(stage1):
    train = load_options(stage1).train
    assert (train.total_iter, train.generator, train.noises_per_image) == (35000, "lora", 1)
    assert (train.losses.vsd.lora.rank, train.losses.vsd.optim.lr) == (4, 5e-5)
    assert train.losses.energy is None and train.losses.perceptual == {}


def test_defaults_are_the_papers(minimal):
    options = load_options(minimal)
    train = options.train
    assert (train.total_iter, train.group_size, train.loss.omega) == (1500, 6, 5000.0)
    assert (train.optim_g.lr, train.optim_g.betas, train.grad_clip) == (5e-5, (0.9, 0.999), 1.0)
    assert (train.lora.rank, train.lora.alpha, train.sampler) == (4, None, "reference")
    assert (train.update_input, train.target, train.cell_size) == ("candidate", "noise", None)
    assert options.datasets.train.degradation == DegradationOptions()
    assert options.scale == 4 and options.val.val_freq == 500


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("nam", "did you mean name?"),
        ("lr", "it belongs to train.optim_g.lr"),
        ("datasets.trian", "did you mean datasets.train?"),
        ("datasets.train.gtsize", "did you mean datasets.train.gt_size?"),
        ("datasets.train.degradation.frist", "did you mean datasets.train.degradation.first?"),
        ("datasets.val.gt_sise", "did you mean datasets.val.gt_size?"),
        ("network_g.t_ad", "did you mean network_g.t_add?"),
        ("path.pretrained_lora", "did you mean path.pretrain_lora?"),
        ("train.totl_iter", "did you mean train.total_iter?"),
        ("train.omega", "it belongs to train.loss.omega"),
        ("train.lora.rnak", "did you mean train.lora.rank?"),
        ("train.optim_g.LR", "did you mean train.optim_g.lr?"),
        ("train.loss.omgea", "did you mean train.loss.omega?"),
        ("train.scheduler.warmup", "did you mean train.scheduler.warmup_iter?"),
        ("train.reward.fidelty", "did you mean train.reward.fidelity?"),
        ("train.reward.texture.gray", "did you mean train.reward.texture.grey?"),
        (
            "train.reward.fidelity.psnr_y.wieght",
            "did you mean train.reward.fidelity.psnr_y.weight?",
        ),
        ("val.metric", "it belongs to train.reward.fidelity.<name>.metric or"),
        ("logger.print_frq", "did you mean logger.print_freq?"),
        ("train.gorup_sise", "did you mean train.group_size?"),
        ("logger.qqqq", "valid keys here: print_freq, save_checkpoint_freq"),
    ],
)
def test_unknown_key_names_source_key_and_closest(minimal, key, hint):
    values = yaml.safe_load(MINIMAL)
    level = values
    *parents, last = key.split(".")
    for parent in parents:
        level = level.setdefault(parent, {})
    level[last] = 7
    minimal.write_text(yaml.safe_dump(values))
    [line] = problems(minimal)
    assert line.startswith(f"{minimal}: {key} = 7: unknown key; ") and hint in line


def test_all_problems_are_reported_one_a_line(minimal):
    lines = problems(minimal, "train:total_iter=0", "scale=9", "logger:print_frq=1")
    assert len(lines) == 3
    assert all(line.startswith("--force_yml: ") for line in lines)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train:total_iter=-3", "train.total_iter = -3: must be greater than or equal to 1 ("),
        ("train:group_size=1", "train.group_size = 1: must be greater than or equal to 2 ("),
        ("train:group_size=65", "train.group_size = 65: must be less than or equal to 64 ("),
        ("scale=2.5", "scale = 2.5: must be a valid integer"),
        ("train:optim_g:lr=fast", "train.optim_g.lr = 'fast': must be a number, not 'fast'"),
        ("train:optim_g:lr=1e39", "train.optim_g.lr = 1e+39: must not exceed 3.4e+38"),
        ("train:loss:omega=0", "train.loss.omega = 0: must be greater than 0"),
        ("train:target=eps", "train.target = 'eps': must be 'noise' or 'x0'"),
        ("datasets:train:gt_size=32", "datasets.train.gt_size = 32: must be greater than or"),
        ("datasets:val:gt_size=32", "datasets.val.gt_size = 32: must be greater than or"),
        ("network_g:t_add=1000", "network_g.t_add = 1000: must be less than or equal to 999"),
        ("name=a/b", "name = 'a/b': must be a plain folder name"),
        ("name=..", "name = '..': must be a plain folder name"),
        ("train:reward:fidelity:psnr_y:weight=-1", "psnr_y.weight = -1: must be greater than or"),
        ("train:lora=4", "train.lora = 4: must be a section of 'key: value' lines"),
        ("train:optim_g:betas=[0.9]", "train.optim_g.betas.1 is missing"),
    ],
)
def test_values_out_of_range(minimal, item, message):
    [line] = problems(minimal, item)
    assert line.startswith("--force_yml: ") and message in line


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train:loss={type: gdop}", "train.loss.type = 'gdop': did you mean 'gdpo'? known: gdpo"),
        (
            "train:loss={type: grpo, sgima: 1}",
            "sgima = 1: unknown key; did you mean train.loss.",
        ),
        (
            "train:loss={type: grpo, omega: 5}",
            "train.loss.omega = 5: unknown key; type grpo does not take it, its keys are type, sig",
        ),
        ("train:loss={type: grpo, clip: 2}", "train.loss.clip = 2: must be less than 1"),
        ("train:loss={omega: high}", "train.loss.omega = 'high': must be a valid number"),
        ("train:loss=gdpo", "train.loss = 'gdpo': must be a section of 'key: value' lines"),
        ("train:omega=5", "train.omega = 5: unknown key; it belongs to train.loss.omega"),
        ("train:advantage:type=decopuled", "train.advantage.type = 'decopuled': must be 'group',"),
    ],
)
def test_a_loss_takes_its_own_parameters(minimal, item, message):
    [line] = problems(minimal, item)
    assert line.startswith("--force_yml: ") and message in line


def test_losses_round_trip_and_omega_may_be_automatic(minimal, tmp_path):
    for loss in ("{omega: auto}", "{type: multi_pair_dpo, fraction: 0.5}", "{type: sft_best}"):
        options = load_options(minimal, [f"train:loss={loss}"])
        copy = tmp_path / "copy.yml"
        copy.write_text(dump_options(options))
        assert load_options(copy).train.loss == options.train.loss
    assert load_options(minimal, ["train:loss={omega: auto}"]).train.loss.omega == "auto"


def test_user_modules_are_found_beside_the_options_file(minimal, monkeypatch, tmp_path):
    (minimal.parent / "mine.py").write_text("")
    monkeypatch.chdir("/")
    options = load_options(minimal, ["train:reward:user_modules=[mine.py, a_package.rewards]"])
    expected = [str((minimal.parent / "mine.py").resolve()), "a_package.rewards"]
    assert options.train.reward.user_modules == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["datasets:train:gt_size=250"], "gt_size = 250 must be a multiple of scale = 4: use 252"),
        (["datasets:val:gt_size=98", "scale=5"], "datasets.val.gt_size = 98 must be a multiple"),
        (
            ["datasets:train:type=PairedDataset"],
            "datasets.train: dataroot_lq is missing: type Pair",
        ),
        (["datasets:val:dataroot_lq=lr"], "datasets.val: dataroot_lq = 'lr': type OnlineDataset"),
        (
            ["datasets:train:dataroot_gt=[]"],
            "datasets.train.dataroot_gt = []: must be a folder or a list",
        ),
        (
            ["datasets:train:dataroot_gt=[a, 7]"],
            "dataroot_gt = ['a', 7]: must be a folder or",
        ),
        (
            [
                "datasets:train:type=PairedDataset",
                "datasets:train:dataroot_gt=[a, b]",
                "datasets:train:dataroot_lq=c",
            ],
            "datasets.train: dataroot_gt names 2 folders, dataroot_lq 1: give a folder of LR",
        ),
        (["train:reward:fidelity:psnr_y:weight=0"], "train.reward: no reward has weight > 0"),
        (["train:reward:fidelity={}"], "train.reward: no reward has weight > 0"),
        (["train:reward:perception:psnr_y:metric=piqe"], "'psnr_y' is under fidelity and under"),
        (["train:scheduler:warmup_iter=1500"], "warmup_iter = 1500 must be less than total_iter"),
        (["train:scheduler:eta_min=1e-3"], "eta_min = 0.001 must not exceed optim_g.lr = 5e-05"),
        (["train:group_chunk=7"], "train: group_chunk = 7 must not exceed group_size = 6"),
        (["train:optim_g:betas=[0.9, 1.0]"], "train.optim_g: betas = [0.9, 1.0]: each must be"),
        (["network_g:revision=abc"], "network_g: revision = 'abc': base mini has none"),
        (["val:metrics:psnr_y:metric=psnr"], "val.metrics.psnr_y is also a reward"),
        (
            ["train:reuse_latents=true", "train:loss={type: grpo}"],
            "reuse_latents = true has no effect with loss.type = grpo",
        ),
        (["train:update_input=lr"], "update_input = lr needs target = x0, not noise"),
        (
            ["train:cell_size=32", "train:loss={type: multi_pair_dpo}"],
            "cell_size = 32 does not go with loss.type = multi_pair_dpo",
        ),
        (
            ["train:cell_size=8", "train:reward:fixed_perception_weight=null"],
            "cell_size = 8 is smaller than reward.texture.patch_size = 10",
        ),
        (["train:cell_size=48"], "train.cell_size = 48 must divide datasets.train.gt_size ="),
        (["train:diversity:t_add_range=[300, 100]"], "t_add_range = [300, 100]: needs 0 <= first"),
        (
            ["train:reward:fidelity:psnr_y:reward=mine"],
            "metric = psnr_y and reward = mine: give one of the two",
        ),
        (
            ["train:reward:perception:x={reward: mine, random_flip: true}"],
            "random_flip = True: only for metric; a reward of your own does it itself",
        ),
    ],
)
def test_fields_that_contradict_each_other(minimal, overrides, message):
    lines = problems(minimal, *overrides)
    assert any(message in line for line in lines)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train:losses:perceptual:a:weigth=1", "did you mean train.losses.perceptual.a.weight?"),
        ("train:cfg_scale=1", "it belongs to train.losses.vsd.cfg_scale"),
        ("train:losses:reconstrution=1", "did you mean train.losses.reconstruction?"),
        ("network_score:bsae=mini", "did you mean network_score.base?"),
        ("train:generator=all", "train.generator = 'all': must be 'lora' or 'full'"),
        ("train:noises_per_image=3", "train.noises_per_image = 3: must be less than or equal to 2"),
        ("train:losses:vsd:min_step=0.6", "min_step = 0.6 must be less than max_step = 0.5"),
        ("train:losses={vsd: null, reconstruction: {weight: 0}}", "no loss has weight > 0"),
        ("train:losses:energy={beta: 1}", "train: noises_per_image = 1: losses.energy compares"),
        ("val:metrics:psnr_y:metric=psnr", "val.metrics.psnr_y is reported by validation anyway"),
        ("network_score:revision=abc", "revision = 'abc': base null takes network_g's"),
        ("model_type=NAOSD", "model_type = 'NAOSD': must be 'GDPOModel' or 'NAOSDModel'"),
    ],
)
def test_problems_of_stage_1(stage1, item, message):
    lines = problems(stage1, item)
    assert any(message in line for line in lines), lines


def test_a_full_generator_has_no_adapters_to_start_from(stage1):
    [line] = problems(stage1, "train:generator=full", "path:pretrain_lora=x")
    assert "path.pretrain_lora = 'x': train.generator full has no adapters" in line


def test_the_schema_tells_the_stages_apart():
    schema = schema_file.schema()
    stages = {
        name: schema["$defs"][schema[name]["$ref"].split("/")[-1]] for name in ("then", "else")
    }
    assert schema["if"]["properties"]["model_type"]["const"] == "NAOSDModel"
    assert stages["then"]["properties"]["model_type"]["const"] == "NAOSDModel"
    assert stages["else"]["properties"]["model_type"]["const"] == "GDPOModel"


def test_missing_keys(minimal):
    rewritten(minimal, "name: test\n", "")
    rewritten(minimal, "  train: {dataroot_gt: photos}\n", "")
    lines = problems(minimal)
    assert lines[0].startswith(f"{minimal}: name is missing (Name of the run")
    assert lines[1].startswith(f"{minimal}: datasets.train is missing (Photos that")


def test_force_yml_parses_yaml_scalars(minimal):
    items = ["train:total_iter=20", "train:optim_g:lr=1e-4", "train:mixed_precision=no"]
    items += ["path:pretrain_lora=null", "train:reward:perception:niqe:metric=niqe", "name=b=c"]
    options = load_options(minimal, items)
    assert (options.train.total_iter, options.train.optim_g.lr) == (20, 1e-4)
    assert options.train.mixed_precision == "no" and options.path.pretrain_lora is None
    assert options.train.reward.perception["niqe"].weight == 1.0 and options.name == "b=c"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train:total_iter", "write section:key=value"),
        ("=3", "write section:key=value"),
        ("train::lr=3", "write section:key=value"),
        ("name:first=3", "'name' is a value, not a section"),
        ("train:optim_g:betas=[0.9", "--force_yml train:optim_g:betas, line 1"),
        ("train:totl_iter=3", "did you mean train.total_iter?"),
    ],
)
def test_bad_force_yml(minimal, item, message):
    [line] = problems(minimal, item)
    assert line.startswith("--force_yml") and message in line


def test_duplicate_key_names_file_line_and_key(minimal):
    rewritten(minimal, "train:\n  reward", "name: again\ntrain:\n  reward")
    assert problems(minimal) == [f"{minimal}, line 5: key 'name' is written twice: keep one"]
    rewritten(minimal, "name: again\n", "")
    rewritten(minimal, "psnr_y: {metric: psnr_y}", "psnr_y: {metric: psnr_y, metric: ssim}")
    assert problems(minimal) == [f"{minimal}, line 8: key 'metric' is written twice: keep one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold 'key: value' lines"),
        ("- a\n", "must hold 'key: value' lines"),
        ("a: [1\nb: 2\n", "line 2: "),
        (
            "a: !!python/object/apply:os.getcwd []\n",
            "line 1: tag !!python/object/apply:os.getcwd is not used",
        ),
        ("{[1]: 2}\n", "line 1: key [1] is no name"),
        ("1: 2\n", "line 1: key 1 is no name"),
    ],
)
def test_not_an_options_file(tmp_path, text, message):
    file = tmp_path / "bad.yml"
    file.write_text(text)
    lines = problems(file)
    assert all(line.startswith(str(file)) for line in lines)
    assert any(message in line for line in lines)


def test_unreadable_options_file(tmp_path):
    assert "cannot be read: No such file" in problems(tmp_path / "none.yml")[0]
    assert "cannot be read: Is a directory" in problems(tmp_path)[0]
    (tmp_path / "bytes.yml").write_bytes(b"name: \xff\xfe")
    assert "not UTF-8 text" in problems(tmp_path / "bytes.yml")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1E3", 1e3),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3", 3),
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("1e5x", "1e5x"),
        ("[1e-4, x0]", [1e-4, "x0"]),
    ],
)
def test_yaml_scalars(text, value):
    parsed = parse_yaml(text, "test")
    assert parsed == value and type(parsed) is type(value)


def test_merge_keys_are_no_duplicates():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"
    assert parse_yaml(text, "test")["b"] == {"x": 3, "y": 2}


def test_folders_resolve_from_anywhere(minimal, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()  # beside options/, as in the repository
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = load_options(minimal).datasets.train.dataroot_gt
    assert found == str((tmp_path / "photos").resolve())
    (tmp_path / "elsewhere" / "photos").mkdir()  # the working directory goes first
    found = load_options(minimal).datasets.train.dataroot_gt
    assert found == str((tmp_path / "elsewhere" / "photos").resolve())
    several = ["datasets:train:dataroot_gt=[photos, ../photos]"]
    found = load_options(minimal, several).datasets.train.dataroot_gt
    assert found == [str((tmp_path / place / "photos").resolve()) for place in ("elsewhere", "")]


def test_repository_folder_and_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("gdpo_sr/config") == REPOSITORY / "gdpo_sr" / "config"
    assert resolve_folder("no/such/folder") == Path("no/such/folder")
    assert resolve_folder(tmp_path) == tmp_path.resolve()


def test_options_cannot_be_changed(minimal):
    with pytest.raises(ValueError, match="frozen"):
        load_options(minimal).train.total_iter = 3


def test_every_field_has_a_description():
    definitions = schema_file.schema()["$defs"].values()
    fields = [item for definition in definitions for item in definition["properties"].items()]
    assert len(fields) > 80
    assert [name for name, field in fields if not field.get("description")] == []
    assert all(definition["additionalProperties"] is False for definition in definitions)


def test_schema_file_is_up_to_date(tmp_path):
    file = tmp_path / "schema.json"
    assert schema_file.main([str(file)]) == 0
    stored = REPOSITORY / "options" / "schema.json"
    remedy = "run: python -m gdpo_sr.config.schema_file"
    assert json.loads(file.read_text()) == json.loads(stored.read_text()), remedy


def test_schema_file_without_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        schema_file.main([str(tmp_path / "none" / "schema.json")])
    assert caught.value.code == 2 and "no folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photo.png", "folder.json", "options.yml"])
def test_the_schema_replaces_nothing_else(tmp_path: Path, name: str, capsys):
    """`gdpo-sr schema photo.png` overwrote the photo."""
    place = tmp_path / name
    place.mkdir() if name == "folder.json" else place.write_text("mine")
    with pytest.raises(SystemExit):
        schema_file.main([str(place)])
    assert "no JSON file; name one that ends in .json" in capsys.readouterr().err
    assert place.is_dir() or place.read_text() == "mine"
