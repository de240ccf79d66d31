"""Rewards of the user's own: found by name, file or path, and their contract checked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gdpo_sr.rewards.registry import REWARDS, find_reward, load_user_modules, register_reward
from gdpo_sr.rewards.scoring import score_candidates
from gdpo_sr.rewards.user_reward import UserReward
from gdpo_sr.types import MetricError, OptionError

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "my_rewards.py"
CANDIDATES = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HR = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
SOURCE = """
from gdpo_sr.rewards.registry import register_reward

@register_reward("{name}")
def brightness(candidates, hr, power=1):
    return candidates.mean((2, 3, 4)) ** power

class Distance:
    def __init__(self, scale=1.0):
        self.scale = scale
    def __call__(self, candidates, hr):
        return -self.scale * (candidates - hr[:, None]).square().mean((2, 3, 4))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file whose reward has a name of its own in this process."""
    path = tmp_path / f"rewards_{abs(hash(tmp_path))}.py"
    path.write_text(SOURCE.format(name=path.stem))
    return path


def test_a_file_registers_a_function_and_is_imported_once(file: Path):
    load_user_modules([str(file)])
    load_user_modules([str(file)])
    scores = find_reward(file.stem, {"power": 2})(CANDIDATES, HR)
    torch.testing.assert_close(scores, CANDIDATES.mean((2, 3, 4)) ** 2)


def test_a_class_of_a_file_by_its_dotted_path(file: Path):
    load_user_modules([str(file)])
    reward = find_reward(f"{file.stem}.Distance", {"scale": 2.0})
    assert reward.scale == 2.0 and reward(CANDIDATES, HR).shape == (2, 3)


def test_a_module_by_its_dotted_path(file: Path, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    assert find_reward(f"{file.stem}.brightness")(CANDIDATES, HR).shape == (2, 3)
    del sys.modules[file.stem]


def test_a_function_of_the_running_program():
    @register_reward("of_this_test")
    def first_pixel(candidates, hr):
        return candidates[..., 0, 0, 0]

    assert find_reward("of_this_test") is first_pixel
    assert not UserReward(first_pixel, "mine", "perception").gives_maps
    rewards = {"mine": UserReward(first_pixel, "mine", "perception")}
    assert torch.equal(score_candidates(rewards, CANDIDATES, HR)["mine"], CANDIDATES[..., 0, 0, 0])


def test_the_example_has_twenty_lines_and_works():
    assert len(EXAMPLE.read_text().splitlines()) == 20
    load_user_modules([str(EXAMPLE)])
    blurred = CANDIDATES.mean((-2, -1), keepdim=True).expand_as(CANDIDATES)
    reward = UserReward(find_reward("local_contrast", {"radius": 1}), "contrast", "perception")
    assert (reward(CANDIDATES, HR) > reward(blurred, HR)).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local_contarst", {}, "did you mean 'local_contrast'"),
        ("no_such_module.reward", {}, "module 'no_such_module' cannot be imported"),
        ("torch.no_such_function", {}, "module 'torch' has no function 'no_such_function"),
        ("subprocess.Popen", {}, "'subprocess.Popen' is of Python's own library"),
        ("subprocess.run", {"shell": True}, "'subprocess.run' is of Python's own library"),
        ("os.path.join", {}, "'os.path.join' is of Python's own library"),
        ("torch.nn.Linear", {}, "module 'torch.nn' has no function 'Linear"),
        ("torch.utils.data.DataLoader", {}, "has no function 'DataLoader"),
        ("torch.compile", {}, r"has no function 'compile\(candidates, hr\)'"),
        ("local_contrast", {"radios": 3}, "unexpected keyword argument 'radios'"),
    ],
)
def test_what_cannot_be_found_is_named(name: str, options: dict, message: str):
    load_user_modules([str(EXAMPLE)])
    with pytest.raises(OptionError, match=message):
        find_reward(name, options)


def test_a_function_in_full_is_logged_with_its_file(caplog):
    """So that whoever runs an options file of somebody else's sees what it calls."""
    with caplog.at_level("INFO", "gdpo_sr"):
        load_user_modules([str(EXAMPLE)])
        find_reward("my_rewards.local_contrast", {"radius": 2})
    assert f"reward 'my_rewards.local_contrast' is of '{EXAMPLE}'" in caplog.text


def test_files_that_fail_are_named(tmp_path: Path):
    with pytest.raises(OptionError, match="no file"):
        load_user_modules([str(tmp_path / "missing.py")])
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    with pytest.raises(OptionError, match="broken.py' fails: ModuleNotFoundError"):
        load_user_modules([str(broken)])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(2), r"'mine' returned shape \(2,\); it must return \(B, G\) = \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int), "'mine' returned torch.int32; it must return a float"),
        ([0.0], "'mine' returned list"),
        (torch.tensor([[0.0, 1, 2], [3, torch.nan, 5]]), "returned nan for candidate 1 of image 1"),
        (torch.full((2, 3), torch.inf), "returned inf for candidate 0 of image 0"),
    ],
)
def test_the_contract_is_checked(returned, message: str):
    reward = UserReward(lambda candidates, hr: returned, "mine", "perception")
    with pytest.raises(MetricError, match=message):
        score_candidates({"mine": reward}, CANDIDATES, HR)


def test_half_precision_scores_and_lower_is_better():
    scores = torch.rand(2, 3).half()
    reward = UserReward(lambda c, h: scores, "mine", "fidelity", lower_better=True)
    assert torch.equal(reward(CANDIDATES, HR), -scores.float())
    assert reward.metric.lower_better


def test_validation_scores_single_pictures():
    reward = UserReward(lambda c, h: c.mean((2, 3, 4)), "mine", "perception")
    images = CANDIDATES[0]
    torch.testing.assert_close(reward.metric(images, images), images.mean((1, 2, 3)))


def test_registered_names_are_kept_apart():
    with pytest.raises(ValueError, match="registered twice"):
        REWARDS.register("local_contrast")(lambda candidates, hr: hr)


def test_a_score_that_overflows_is_told():
    """Finite in float64, not in float32."""
    reward = UserReward(lambda c, hr: c.double().mean((2, 3, 4)) * 1e300, "huge", "fidelity")
    with pytest.raises(MetricError, match="'huge' returned inf for candidate 0 of image 0"):
        reward(CANDIDATES, HR)


def test_a_graph_of_the_users_ends_at_the_scores():
    weight = torch.ones((), requires_grad=True)

    def with_graph(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return candidates.mean((2, 3, 4)) * weight

    rewards = {"mine": UserReward(with_graph, "mine", "fidelity")}
    assert not score_candidates(rewards, CANDIDATES, HR)["mine"].requires_grad


def test_a_reward_that_changes_the_default_dtype_changes_it_for_itself():
    """Found: the next update ended with a traceback."""

    def doubles(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        return candidates.mean((2, 3, 4))

    rewards = {"mine": UserReward(doubles, "mine", "fidelity")}
    assert score_candidates(rewards, CANDIDATES, HR)["mine"].isfinite().all()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "1 / 0", "raise Own"])
def test_a_file_that_ends_the_program_is_an_error(text: str, tmp_path: Path, monkeypatch):
    name = f"exits_{abs(hash(text))}"
    own = "class Own(BaseException):\n    pass\n"
    (tmp_path / f"{name}.py").write_text(own + text)
    monkeypatch.syspath_prepend(tmp_path)
    for use in (lambda: load_user_modules([str(tmp_path / f"{name}.py")]),
                lambda: find_reward(f"{name}.score")):  # fmt: skip
        with pytest.raises(OptionError, match="SystemExit|ZeroDivisionError|Own"):
            use()


class Own(BaseException):
    """As a library may have it: no Exception."""


@pytest.mark.parametrize(
    "error", [FileNotFoundError("weights.pth"), SystemExit(0), MemoryError(), Own("x")]
)
def test_a_class_that_cannot_be_made_is_one_line(error: BaseException):
    class Broken:
        def __init__(self) -> None:
            raise error

    name = f"broken_{type(error).__name__}"
    register_reward(name)(Broken)
    with pytest.raises(OptionError, match=f"'{name}' cannot be made: .*{type(error).__name__}"):
        find_reward(name)
