"""Several processes: they train as one does, only the main one writes, and none is waited for in
vain.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from gdpo_sr.config.load import load_options
from gdpo_sr.train import build_accelerator, train
from gdpo_sr.trainer.base_model import BaseModel
from gdpo_sr.trainer.state import load_state, saved_states

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = {
    **os.environ,
    "ACCELERATE_USE_CPU": "true",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}
"""What `accelerate launch` adds for `distributed_type: DEEPSPEED`."""
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None or shutil.which("c++") is None,
    reason="needs pip install 'gdpo-sr[deepspeed]', and c++, with which it compiles on CPUs",
)
STAGES = {"naosd": "naosd.yml"}
GROUP: dict[str, object] = {
    "train__update_input": "candidate",
    "train__update_chunk": 2,
    "train__loss__omega": "auto",
    "train__diversity__source": "t_add",
}
"""Candidates of several steps: their scores lie far apart, so that rounding does not rank them."""
DECOUPLED: dict[str, object] = {
    "train__advantage__type": "decoupled",
    "train__accumulation": 2,
    "train__control": "permuted_advantages",
    "train__alarms__stop": "true",
    "val__val_freq": 4,
}
RUNS = {
    "group": GROUP,
    "decoupled": DECOUPLED,
    "naosd": {"train__losses__perceptual": "{}", "train__losses__energy": "null"},
    "sharded_group": GROUP,
}
NAMES = ["group", "decoupled", "naosd"]
BASE = "mini-diffusion"  # a UNet: FSDP on the RRDBNet of mini ends 1.4 % apart, not explained yet
"""Trained, so that rounding stays small; on random weights five updates enlarge it greatly."""
PATIENCE = 300
"""Seconds; a fraction of it passes on an idle machine."""


def overrides(
    name: str, base: str | Path, root: Path, batch_size: int, **changes: object
) -> list[str]:
    """Five updates on 64-pixel crops.

    With `eps` at the size of a clipped gradient's elements AdamW's step grows with them. With the
    usual 1e-8 it is their sign at first, which rounding can turn where they are near 0.
    """
    values = {
        "name": name,
        "num_threads": 1,
        "network_g:base": base,
        "path:experiments_root": root,
        "datasets:train:gt_size": 64,
        "datasets:train:batch_size": batch_size,
        "datasets:val:gt_size": 64,
        "datasets:val:max_images": 1,
        "train:total_iter": 5,
        "train:ema_decay": 0.5,
        "train:optim_g:eps": 0.01,
        "train:optim_g:lr": 3e-3,
        "train:optim_g:weight_decay": 0,
        "val:metrics": "{gmsd: {metric: gmsd}}",
        "val:val_freq": 0,
        "logger:print_freq": 1,
        "logger:save_checkpoint_freq": 5,
        "logger:show_progress": "false",
    }
    if name not in STAGES:
        values["train:group_size"] = 3
        values["train:cell_size"] = values["train:reward:fixed_perception_weight"] = "null"
        values["train:loss"] = "{type: gdpo, omega: 20}"
        values["train:reward:color_fix"] = "none"
        values["train:reward:perception"] = "{gmsd: {metric: gmsd, random_flip: true}}"
        values["val:metrics"] = "{ssim: {metric: ssim}}"
    values.update({key.replace("__", ":"): value for key, value in changes.items()})
    return [f"{key}={value}" for key, value in values.items()]


def options_file(name: str) -> str:
    return str(ROOT / "options" / STAGES.get(name, "gdpo_sr.yml"))


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of the second factors, which start at 0: relative to what training has changed."""
    assert one.keys() == other.keys()
    pairs = [(one[name], other[name]) for name in one if ".lora_B" in name]
    differences = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
    return float((differences / torch.stack([a.square().sum() for a, _ in pairs]).sum()).sqrt())


def train_here(name: str, forced: list[str]) -> BaseModel:
    """The trainer after a run in this process alone."""
    options = load_options(options_file(name), forced)
    return train(options, False, build_accelerator(options))


def run_in_two(folder: Path, names: list[str], **environment: str) -> Path:
    """Some of RUNS by two processes with batches of 2: weights in `folder`, runs in its `exp`."""
    plan = {
        name: [options_file(name), overrides(name, BASE, folder / "exp", 2, **RUNS[name])]
        for name in names
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [*TORCHRUN, str(ROOT / "tests" / "two_processes.py"), str(folder)]
    done = subprocess.run(
        [*command, str(folder / "plan.json")],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All RUNS."""
    return run_in_two(tmp_path_factory.mktemp("together"), list(RUNS))


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of NAMES with DeepSpeed's ZeRO-2."""
    return run_in_two(tmp_path_factory.mktemp("zero"), NAMES, **DEEPSPEED)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(name: str, together: Path, tmp_path: Path):
    """Equal up to rounding: sums are made in another order."""
    ours, theirs = (torch.load(together / f"{name}_rank{r}.pt", weights_only=True) for r in (0, 1))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert any(key.startswith("score.") for key in ours) == (name in STAGES)
    forced = overrides(name, BASE, tmp_path, 4, **RUNS[name])
    model = train_here(name, forced)
    alone = {k: p.detach() for k, p in model.all_trained.items()}
    assert distance(alone, ours) < 2e-5


def test_spread_weights_train_as_whole_ones(together: Path):
    """FSDP keeps the frozen weights in pieces; gathered weights lie elsewhere in memory, so that
    kernels round differently.
    """
    whole = torch.load(together / "group_rank0.pt", weights_only=True)
    ours, theirs = (
        torch.load(together / f"sharded_group_rank{r}.pt", weights_only=True) for r in (0, 1)
    )
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert distance(whole, ours) < 1e-4


@needs_deepspeed
@pytest.mark.parametrize("name", NAMES)
def test_spread_states_train_as_whole_ones(name: str, together: Path, zero: Path):
    """Weights of both networks, and what the main process writes, which is what any run writes: the
    optimizers' states are put together for it.
    """
    whole = torch.load(together / f"{name}_rank0.pt", weights_only=True)
    ours, theirs = (torch.load(zero / f"{name}_rank{r}.pt", weights_only=True) for r in (0, 1))
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert distance(whole, ours) < 2e-5
    one, other = (
        load_state(folder / "exp" / name / "training_states" / "0000005")
        for folder in (together, zero)
    )
    torch.testing.assert_close(other["average"], one["average"], rtol=1e-4, atol=1e-6)
    states = [(one["optimizer"], other["optimizer"])]
    if name in STAGES:
        states.append((one["extra"]["fake"]["optimizer"], other["extra"]["fake"]["optimizer"]))
    for a, b in states:
        assert a["param_groups"] == b["param_groups"]
        for moment in ("exp_avg", "exp_avg_sq"):
            x, y = (torch.cat([v[moment].flatten() for v in s["state"].values()]) for s in (a, b))
            assert (x - y).norm() < 1e-4 * x.norm()
    [log] = (zero / "exp" / name).rglob("train.log")
    assert log.read_text().count("optimizer states are spread over 2 processes") == 1
    files = [
        sorted(f.name for f in (p / "exp" / name / "models").rglob("*")) for p in (together, zero)
    ]
    assert files[0] == files[1] and "adapter_model.safetensors" in files[0]


@needs_deepspeed
def test_one_process_goes_on_from_spread_states(zero: Path, tmp_path: Path):
    saved = zero / "exp" / "group" / "training_states" / "0000005"
    forced = overrides("group", BASE, tmp_path, 4, **GROUP, path__resume_state=saved)
    model = train_here("group", forced)
    states = (
        model.weight_update.optimizer.state_dict()["state"],
        load_state(saved)["optimizer"]["state"],
    )
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_only_the_main_process_writes(together: Path):
    """The other one would have failed at its first try; there is one log and one event file."""
    for name in RUNS:
        folder = together / "exp" / name
        [log] = folder.rglob("train.log")
        assert log.read_text().count(": update 3 of ") == 1
        assert "processes: 2 on cpu" in log.read_text()
        assert ("spread over 2 processes" in log.read_text()) == name.startswith("sharded")
        assert len(list(folder.rglob("events.out.tfevents.*"))) == 1


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*TORCHRUN, str(ROOT / "train.py"), "-opt", options_file("group"), *arguments],
        env={**ENVIRONMENT, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for(condition: Callable[[], bool], launcher: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end and launcher.poll() is None
        time.sleep(0.2)


def has_logged(root: Path, text: str) -> Callable[[], bool]:
    return lambda: any(text in log.read_text() for log in root.rglob("train.log"))


def test_a_lost_process_ends_the_run(base: Path, tmp_path: Path):
    forced = overrides("run", base, tmp_path, 1, train__total_iter=10_000)
    launcher = start(["--force_yml", *forced])
    wait_for(has_logged(tmp_path, ": update 2 of "), launcher)
    ranks = {p.environ().get("RANK"): p for p in psutil.Process(launcher.pid).children()}
    ranks["1"].kill()
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "process 0 of 2 lost another one" in line and "--auto_resume" in line


def test_an_error_in_one_process_ends_the_run(base: Path, tmp_path: Path):
    module = tmp_path / "broken.py"
    module.write_text(
        "import os\nfrom gdpo_sr.types import DatasetError\n"
        "if os.environ['RANK'] == '1':\n    raise DatasetError('no photos here')\n"
    )
    forced = overrides("run", base, tmp_path / "exp", 1, train__reward__user_modules=f"[{module}]")
    launcher = start(["--force_yml", *forced])
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode != 0 and "error: " in errors and "no photos here" in errors


def parts_of(state: dict[str, Any]) -> list[Any]:
    return [
        state["trained"],
        state["average"],
        state["optimizer"]["state"],
        state["extra"]["scale"],
        state["random"][0]["named"],
    ]


@pytest.mark.parametrize("kind", ["together", pytest.param("zero", marks=needs_deepspeed)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """SIGTERM to the launcher: both processes save after the same update; weights, averages and
    optimizer end bit for bit as in the run that was not stopped.
    """
    environment = DEEPSPEED if kind == "zero" else {}
    arguments = ["--force_yml", *overrides("group", BASE, tmp_path, 2, **GROUP)]
    launcher = start(arguments, **environment)
    wait_for(has_logged(tmp_path, ": update 2 of "), launcher)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    states = tmp_path / "group" / "training_states"
    [stopped] = saved_states(states)
    assert launcher.returncode != 0 and 2 <= int(stopped.name) < 5
    launcher = start([*arguments, "--auto_resume"], **environment)
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0, errors[-2000:]
    finished = request.getfixturevalue(kind)
    whole = load_state(finished / "exp" / "group" / "training_states" / "0000005")
    resumed = load_state(saved_states(states)[-1])
    for a, b in zip(parts_of(resumed), parts_of(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("file", sorted((ROOT / "options" / "accelerate").glob("*.yaml")))
def test_accelerate_configurations_are_accepted(file: Path):
    """The launcher's own reading of the file, which refuses unknown keys, up to the environment."""
    words = ["--config_file", str(file), "--num_processes", "4", "--machine_rank", "0", "train.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    spread, zero = file.stem == "fsdp", file.stem == "deepspeed_zero2"
    assert arguments.num_processes == 4 and arguments.use_fsdp == spread
    assert arguments.use_deepspeed == zero and (arguments.zero_stage == 2 or not zero)
    assert (environment.get("FSDP_VERSION") == "2") == spread
    assert environment.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false") == "false"
