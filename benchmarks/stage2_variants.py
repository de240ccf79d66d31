"""One update of stage 2, by the package's trainer and by a plain restatement of what the released
code does, on the same pictures, the same noise and the same adapters. Used by stage2_step.py and
group_memory.py.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.sd_layout import build_sd_layout
from gdpo_sr.checkpoints.lora import adapter_layers, add_lora
from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.advantages import group_advantages
from gdpo_sr.group.errors import draw_update_noise
from gdpo_sr.group.sample import draw_group_noise, enlarge_lr
from gdpo_sr.losses import gdpo_loss
from gdpo_sr.rewards.scoring import score_candidates
from gdpo_sr.rewards.texture_share import texture_share
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer.optimization import build_optimizer
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.types import SRBatch
from gdpo_sr.utils.image_io import read_image

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "datasets" / "example" / "val" / "forest_stream.jpg"
PAPER = (
    "train:update_input=candidate",
    "train:target=noise",
    "train:cell_size=null",
    "train:reward:fixed_perception_weight=null",
    "train:reward:color_fix=none",
    "train:loss={type: gdpo, omega: 50}",
    "val:metrics={gmsd: {metric: gmsd}}",
    "datasets:val:max_images=1",
    "logger:show_progress=false",
)
"""The paper's step on the options of the embedded base; its omega, 5000, would magnify rounding in
the first losses, which are compared.
"""


def make_base(base: str, folder: Path, device: str) -> str:
    """`mini`, a path, or `sd:WIDTH`: Stable Diffusion's layers with random weights, in `folder`."""
    if not base.startswith("sd:"):
        return base
    return str(build_sd_layout(folder / "sd", float(base.removeprefix("sd:")), device=device))


def make_batch(size: int, prompt: str, device: str) -> SRBatch:
    """The middle of an example photo and its reduction to a quarter."""
    photo = read_image(PHOTO)
    top, left = ((n - size) // 2 for n in photo.shape[-2:])
    if min(top, left) < 0:
        photo = torch.nn.functional.interpolate(photo[None], size=(size, size), mode="bicubic")[0]
        top = left = 0
    hr = photo[None, :, top : top + size, left : left + size].clamp(0, 1)
    lr = torch.nn.functional.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
    return SRBatch(lr.clamp(0, 1).to(device), hr.to(device), [prompt], ["photo"])


def build_trainer(base: str, folder: Path, overrides: list[str]) -> GDPOModel:
    """The package's trainer, its policy moved a little so that the loss is not ln 2."""
    options = load_options(
        ROOT / "options" / "gdpo_sr.yml",
        [*PAPER, f"network_g:base={base}", f"path:experiments_root={folder}", *overrides],
    )
    accelerator = Accelerator(mixed_precision=options.train.mixed_precision)
    paths = ExperimentPaths(options.path.experiments_root, options.name)
    model = GDPOModel(options, paths, accelerator)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trained.items():
            if ".lora_B." in name:
                parameter.copy_(1e-4 * torch.randn(parameter.shape, generator=rng))
    return model


def own_step(model: GDPOModel, batch: SRBatch) -> Callable[[], float]:
    """One update of the trainer on one batch; returns its loss. A run's first update asks for hacks
    as well, which is left out.
    """
    model.iteration = 1

    def step() -> float:
        with model.accelerator.autocast():
            items = model.prepare_update([batch])
        output = model._backward(items[0], 1)
        model.weight_update.step()
        return float(output.loss.detach())

    return step


def back_to_peft(network: torch.nn.Module) -> None:
    """Give the adapters of a network PEFT's own forward pass."""
    for layer in adapter_layers(network):
        layer.__class__ = type(layer).__mro__[2]


class NaiveStep:
    """What the released step does, in our words: two UNets, the group sampled in float32 outside
    autocast, the text encoder run for every candidate in each of three passes, policy and reference
    decoded in the update though the loss does not look at pictures, the policy's with its graph.

    It takes adapters and randomness from a trainer, so that both compute the same loss.
    """

    def __init__(self, model: GDPOModel, base: str) -> None:
        o, self.accelerator = model.options, model.accelerator
        device = self.accelerator.device
        components = load_components(
            base, o.network_g.revision, o.network_g.t_add, o.network_g.t_diff
        )
        self.text_encoder = components["text_encoder"].to(device).requires_grad_(False)
        self.tokenizer = components["tokenizer"]
        self.policy = build_generator(components).to(device)
        self.policy.recorder = None
        frozen = load_components(base)["unet"].to(device)
        self.reference = frozen.requires_grad_(False).eval()
        lora = o.train.lora
        add_lora(self.policy.unet, lora.rank, lora.alpha, lora.dropout)
        back_to_peft(self.policy.unet)
        own = dict(self.policy.unet.named_parameters())
        with torch.no_grad():
            for name, value in model.trained.items():
                own[name].copy_(value)
        self.trained = [own[name] for name in model.trained]
        self.optimizer = build_optimizer(self.trained, o.train.optim_g)
        self.rewards, self.train = model.rewards, o.train
        self.random = RandomSources(o.manual_seed, model.random_names)

    def __call__(self, batch: SRBatch) -> float:
        """One update; returns its loss."""
        group, g = self._sample(batch), self.train.group_size
        scores = score_candidates(self.rewards, group, batch.hr)
        advantages = group_advantages(scores, texture_share(batch.hr), self.rewards)
        latents = torch.empty(1, g, *self.policy.latent_shape(batch.hr)[1:], device=group.device)
        posterior, noise = draw_update_noise(latents, self.random["update"], False)
        scheduler = self.policy.scheduler
        with self.accelerator.autocast():
            with torch.no_grad():
                latents = self.policy.encode(group.flatten(0, 1) * 2 - 1, posterior.flatten(0, 1))
            eps = noise.flatten(0, 1)
            noisy = scheduler.add_noise(latents, eps)
            tuned, picture = self._restore(self.policy.unet, noisy, batch.prompts * g)
            with torch.no_grad():
                plain, frozen_picture = self._restore(self.reference, noisy, batch.prompts * g)
            errors = [
                (p.float() - eps).square().mean((1, 2, 3)).unflatten(0, (-1, g))
                for p in (tuned, plain)
            ]
            loss = gdpo_loss(*errors, advantages, self.train.loss.omega).loss
        self.accelerator.backward(loss)
        del picture, frozen_picture
        torch.nn.utils.clip_grad_norm_(self.trained, self.train.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @torch.no_grad()
    def _sample(self, batch: SRBatch) -> torch.Tensor:
        """Candidates (1, G, 3, H, W) in [0, 1], in float32."""
        g = self.train.group_size
        drawn = draw_group_noise(self.policy, batch, g, self.random["sampling"], False)
        encoded = self.policy.encode(enlarge_lr(batch.lr, batch.hr), drawn.posterior)
        noisy = self.policy.scheduler.add_noise(encoded, drawn.injected[0])
        _, pictures = self._restore(self.reference, noisy, batch.prompts * g)
        return pictures[None] / 2 + 0.5

    def _restore(
        self, unet: torch.nn.Module, noisy: torch.Tensor, prompts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prediction and decoded picture; the text encoder runs on every prompt."""
        ids = self.tokenizer(
            prompts, max_length=self.tokenizer.model_max_length, padding="max_length",
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        embeds = self.text_encoder(ids.to(noisy.device))[0]
        epsilon = self.policy.predict_epsilon(noisy, embeds, unet)
        latents = self.policy.scheduler.predict_x0(noisy, epsilon)
        return epsilon, self.policy.decode(latents).float()


class Memory:
    """Memory of what runs inside, in bytes.

    Attributes:
        kept: largest amount of activations held for a backward pass, each tensor once, weights
            left out.
        peak: largest allocation on a GPU; on a CPU the process's largest resident memory.
    """

    def __init__(self, networks: list[torch.nn.Module]) -> None:
        weights = (p for n in networks for p in (*n.parameters(), *n.buffers()))
        self._weights = {p.untyped_storage().data_ptr() for p in weights}
        self._held: dict[int, int] = {}
        self._now = self.kept = self.peak = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Inside, count what autograd keeps."""
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Kept(self, tensor), lambda kept: kept.tensor
        ):
            yield
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak = torch.cuda.max_memory_allocated() if cuda else rss

    def add(self, tensor: torch.Tensor, sign: int) -> None:
        """Count the storage of `tensor` once however often it is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._weights:
            return
        before = self._held.get(storage.data_ptr(), 0)
        self._held[storage.data_ptr()] = before + sign
        if (sign > 0 and before == 0) or (sign < 0 and before == 1):
            self._now += sign * storage.nbytes()
            self.kept = max(self.kept, self._now)


class _Kept:
    def __init__(self, memory: Memory, tensor: torch.Tensor) -> None:
        self.memory, self.tensor = memory, tensor
        memory.add(tensor, 1)

    def __del__(self) -> None:
        self.memory.add(self.tensor, -1)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def random_metric_networks() -> Iterator[None]:
    """Inside, MANIQA's backbone is not downloaded but drawn at random, as `--random_metrics` asks
    of the rest; speed does not depend on weights.
    """
    import timm

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **kwargs: create(name, **kwargs)
    try:
        yield
    finally:
        timm.create_model = create


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
