"""When a pass is recorded, and what a recording is found by. Recordings need CUDA and are
tried in tests/integration/test_cuda.py; here they are a stand-in on the CPU.
"""

from __future__ import annotations

import logging
import weakref

import pytest
import torch
from torch import nn

from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora, weigh_adapters
from gdpo_sr.generators import recorded
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.recorded import Recorder
from gdpo_sr.generators.remembered import without_dropout


class StandIn:
    """Counts how often it is made and called."""

    made, called = 0, 0

    def __init__(self, function, inputs, pool, weights) -> None:
        type(self).made += 1
        self.function = function

    def __call__(self, *inputs):
        type(self).called += 1
        return self.function(*inputs)


@pytest.fixture
def kind():
    return type("OwnStandIn", (StandIn,), {"made": 0, "called": 0})


@pytest.fixture
def recorder(kind) -> Recorder:
    found = Recorder()
    found.device, found.kinds = "cpu", (kind, kind)
    return found


@pytest.fixture
def network() -> nn.Module:
    return nn.Conv2d(3, 3, 1).requires_grad_(False)


X = torch.rand(1, 3, 4, 4)


def times(recorder, network, count, x=X, name="pass"):
    for _ in range(count):
        [y] = recorder(network, name, lambda x: (network(x),), x)
    assert torch.equal(y, network(x))


def test_a_pass_is_recorded_when_it_comes_again(recorder, network, kind):
    times(recorder, network, 1)
    assert kind.made == 0
    times(recorder, network, 3)
    assert (kind.made, kind.called) == (1, 3)
    recorder.clear()
    times(recorder, network, 1)
    assert (kind.made, kind.called) == (1, 3)


def test_nothing_is_recorded_off_cuda(network):
    recorder = Recorder()
    recorder.kinds = (None, None)
    times(recorder, network, 4)


@pytest.mark.parametrize(
    "x", [torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 8), X.double()], ids=["N", "width", "dtype"]
)
def test_another_kind_of_input_is_another_recording(recorder, network, kind, x):
    times(recorder, network, 3)
    times(recorder, network.to(x.dtype), 3, x)
    assert kind.made == 2


def test_another_name_or_autocast_is_another_recording(recorder, network, kind, monkeypatch):
    times(recorder, network, 3)
    times(recorder, network, 3, name="other")
    monkeypatch.setattr(recorded, "_autocast", lambda: (True, torch.bfloat16))
    times(recorder, network, 3)
    assert kind.made == 3


def test_weights_that_change_in_place_keep_their_recording(recorder, network, kind):
    times(recorder, network, 3)
    network.weight.mul_(2)
    times(recorder, network, 3)
    assert kind.made == 1


def test_weights_elsewhere_in_memory_are_recorded_anew(recorder, network, kind):
    times(recorder, network, 3)
    network.weight.data = network.weight.data.clone()
    times(recorder, network, 3)
    assert kind.made == 2


def test_policy_and_reference_have_their_own_recordings(base, kind):
    generator = build_generator(load_components(base))
    generator.recorder.device, generator.recorder.kinds = "cpu", (kind, kind)
    add_lora(generator.unet)
    for name, parameter in generator.unet.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    noisy = torch.rand(1, generator.vae.config.latent_channels, 8, 8)
    embeds = generator.prompt_encoder([""])
    answers = []
    with torch.no_grad():
        for _ in range(3):
            answers.append(generator.predict_epsilon(noisy, embeds))
            with adapters_disabled(generator.unet):
                answers.append(generator.predict_epsilon(noisy, embeds))
        assert kind.made == 2
        assert torch.equal(answers[0], answers[4])
        assert torch.equal(answers[1], answers[5])
        assert not torch.equal(answers[4], answers[5])
        weigh_adapters(generator.unet, {"default": 0.5})
        for _ in range(2):
            half = generator.predict_epsilon(noisy, embeds)
    assert kind.made == 3
    assert not torch.equal(half, answers[0])


def test_another_timestep_is_another_recording(base, kind):
    generator = build_generator(load_components(base))
    generator.recorder.device, generator.recorder.kinds = "cpu", (kind, kind)
    noisy = torch.rand(1, generator.vae.config.latent_channels, 8, 8)
    embeds = generator.prompt_encoder([""])
    with torch.no_grad():
        for t_diff in (100, 200):
            generator.scheduler.set_timesteps_pair(t_diff=t_diff)
            for _ in range(2):
                generator.predict_epsilon(noisy, embeds)
    assert kind.made == 2


def test_dropout_is_not_recorded(recorder, kind):
    network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 3, 1))
    for _ in range(3):
        recorder(network, "pass", lambda x: (network(x),), X)
    assert kind.made == 0
    with without_dropout(network):
        times(recorder, network, 3)
    assert kind.made == 1


def test_inputs_with_a_graph_are_not_recorded(recorder, network, kind):
    times(recorder, network, 3, X.clone().requires_grad_())
    assert kind.made == 0


def test_a_pass_that_trains_has_its_own_recording(recorder, network, kind):
    times(recorder, network, 3)
    network.requires_grad_(True)
    times(recorder, network, 3)
    with torch.no_grad():
        times(recorder, network, 3)
    assert kind.made == 3
    recorder.gradients = False
    called = kind.called
    times(recorder, network, 3)
    assert kind.called == called


def test_nothing_is_replayed_while_a_backward_pass_is_due(recorder, network, kind):
    times(recorder, network, 3)
    [found] = recorder._found.values()
    found.is_pending = True
    times(recorder, network, 3)
    assert kind.called == 2
    found.is_pending = False
    times(recorder, network, 3)
    assert kind.called == 5


def test_a_backward_pass_is_due_as_long_as_somebody_may_ask_for_it():
    replayed = object.__new__(recorded.ReplayedGradient)
    replayed._token = None
    assert not replayed.is_pending
    token = recorded._Token()
    replayed._token = weakref.ref(token)
    assert replayed.is_pending
    del token
    assert not replayed.is_pending


def test_what_cannot_be_recorded_is_run_and_told_once(recorder, network, monkeypatch):
    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    told = []
    monkeypatch.setattr(
        logging.getLogger("gdpo_sr"), "warning", lambda text, *a: told.append(text % a)
    )
    recorder.kinds = (fails, fails)
    times(recorder, network, 5)
    assert told == ["no CUDA graph of pass: operation not permitted when stream is capturing"]


def test_the_recording_that_was_not_used_for_longest_goes_first(recorder, network, kind):
    for name in range(recorded.KEPT + 1):
        times(recorder, network, 2, name=name)
        times(recorder, network, 1, name=0)
    assert kind.made == recorded.KEPT + 1
    times(recorder, network, 1, name=0)
    assert kind.made == recorded.KEPT + 1
    times(recorder, network, 1, name=1)
    assert kind.made == recorded.KEPT + 2
