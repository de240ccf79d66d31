"""Time and memory of one update of stage 1 against a plain restatement of the released one.

    python -m benchmarks.stage1_step                                  # sd:0.125, 128 px, one thread
    python -m benchmarks.stage1_step --base sd:1 --size 512 --device cuda

The naive step keeps three UNets (generator, real and fake score), PEFT's own forward pass, float32
weights under autocast, and runs the text encoder wherever a prompt is needed. Both have the losses
reconstruction and VSD (LPIPS is the same work in both), the same draws and adapters; the command
stops if the first losses differ. They take turns; CPU time is the least of several updates, wall
time on a GPU. Peak memory is of a process of its own, beyond the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.stage2_step import milliseconds
from benchmarks.stage2_variants import (
    ROOT,
    back_to_peft,
    make_base,
    make_batch,
    resident,
    scratch,
)
from benchmarks.turns import machine
from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.config.load import load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.generators.diffusion_math import add_noise, predict_x0
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.sample import draw_noise, enlarge_lr
from gdpo_sr.losses.reconstruction import reconstruction_loss
from gdpo_sr.losses.vsd_loss import classifier_free_guidance, vsd_loss
from gdpo_sr.stage1.naosd_model import NAOSDModel
from gdpo_sr.stage1.score_networks import FAKE, ScoreNetworks
from gdpo_sr.train import build_accelerator
from gdpo_sr.trainer.optimization import build_optimizer
from gdpo_sr.trainer.random_sources import RandomSources
from gdpo_sr.types import SRBatch

NAIVE, OWN = "naive", "ours"
TOLERANCE = 2e-2
"""Relative, of the first loss: in half precision the naive step encodes prompts in it, too."""


def build_trainer(args: argparse.Namespace, folder: Path) -> NAOSDModel:
    """The package's trainer of stage 1, one picture an update, without LPIPS."""
    changes = [
        "train:losses:perceptual={}",
        f"train:mixed_precision={args.precision}",
        "val:metrics={}",
        f"network_g:base={args.base}",
        f"path:experiments_root={folder}",
        "network_score:base=null",
        "datasets:val:max_images=1",
        f"datasets:train:gt_size={args.size}",
        "datasets:val:gt_size=64",
        "logger:show_progress=false",
    ]
    options = load_options(ROOT / "options" / "naosd.yml", changes)
    accelerator = build_accelerator(options)
    return NAOSDModel(options, ExperimentPaths(folder, "run"), accelerator)


def own_step(model: NAOSDModel, batch: SRBatch) -> Callable[[], float]:
    """One update of generator and fake score; returns the generator's loss."""

    def step() -> float:
        logs = model._learn(batch, 1)
        model._step()
        return logs["loss"]

    return step


class NaiveStep:
    """What the released stage 1 does, in our words."""

    def __init__(self, model: NAOSDModel, base: str) -> None:
        o, self.accelerator = model.options, model.accelerator
        device, vsd = self.accelerator.device, o.train.losses.vsd
        components = load_components(base, None, o.network_g.t_add, o.network_g.t_diff)
        self.tokenizer = components["tokenizer"]
        self.text_encoder = components["text_encoder"].to(device).requires_grad_(False)
        self.network = build_generator(components).to(device).requires_grad_(False)
        self.network.recorder = None
        self.adapters = GeneratorAdapters(self.network.unet, self.network.vae)
        self.adapters.add(o.train.lora.rank, o.train.lora.alpha, o.train.lora.dropout)
        fake = load_components(base)["unet"].to(device).requires_grad_(False)
        add_lora(fake, vsd.lora.rank, vsd.lora.alpha, vsd.lora.dropout, FAKE)
        self.real = load_components(base)["unet"].to(device).requires_grad_(False)
        self.fake = ScoreNetworks(
            fake, self.network.scheduler, self._encode, o.network_score.prompt,
            o.network_score.negative_prompt, vsd.cfg_scale, (vsd.min_step, vsd.max_step),
        )  # fmt: skip
        self._copy(model)
        for unet in (self.network.unet, self.network.vae, fake):
            back_to_peft(unet)
        self.trained = list(self.adapters.parameters().values())
        self.fitted = [p for p in fake.parameters() if p.requires_grad]
        self.optimizers = [
            build_optimizer(self.trained, o.train.optim_g),
            build_optimizer(self.fitted, vsd.optim),
        ]
        self.losses, self.clip = o.train.losses, o.train.grad_clip
        self.random = RandomSources(o.manual_seed, model.random_names)

    @torch.no_grad()
    def _copy(self, model: NAOSDModel) -> None:
        """The trainer's adapters, which start at random."""
        assert model.adapters is not None and model.score is not None
        given = model.adapters.parameters()
        for name, parameter in self.adapters.parameters().items():
            parameter.copy_(given[name])
        given = dict(model.score.unet.named_parameters())
        for name, parameter in self.fake.unet.named_parameters():
            if f".{FAKE}." in name:
                parameter.copy_(given[name])

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> torch.Tensor:
        ids = self.tokenizer(
            prompts, max_length=self.tokenizer.model_max_length, padding="max_length",
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        return self.text_encoder(ids.to(self.accelerator.device))[0]

    def __call__(self, batch: SRBatch) -> float:
        """One update; returns the generator's loss."""
        with self.accelerator.autocast():
            latents = self._restore(batch)
            image = self.network.decode(latents).float()
            o = self.losses.reconstruction
            loss = o.weight * reconstruction_loss(image, batch.hr * 2 - 1, o.type).loss
            loss = loss + self.losses.vsd.weight * self._distill(latents, batch.prompts)
        self._update(loss, 0)
        with self.accelerator.autocast():
            fake = self.fake.fake_loss(latents, batch.prompts, self.random["fake"])
        self._update(fake, 1)
        return float(loss.detach())

    def _restore(self, batch: SRBatch) -> torch.Tensor:
        shape, rng = self.network.latent_shape(batch.hr), self.random["sampling"]
        posterior, noise = (draw_noise(shape, rng, batch.hr.device) for _ in range(2))
        encoded = self.network.encode(enlarge_lr(batch.lr, batch.hr), posterior)
        return self.network.restore_latents(encoded, noise, self._encode(batch.prompts))

    def _distill(self, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """VSD by two UNets of one draw."""
        rng, steps = self.random["vsd"], len(self.network.scheduler.alphas_cumprod)
        low, high = (int(share * steps) for share in self.fake.step_range)
        t = torch.randint(low, high, (len(latents),), generator=rng).to(latents.device)
        noise = draw_noise(latents.shape, rng, latents.device)
        with torch.no_grad():
            alpha_bar = self.network.scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
            noisy = add_noise(latents.float(), noise, alpha_bar)
            positive = self._encode(prompts)
            negative = self._encode([self.fake.negative_prompt] * len(prompts))
            fake, *real = (
                unet(noisy, t, encoder_hidden_states=text).sample.float()
                for unet, text in (
                    (self.fake.unet, positive), (self.real, positive), (self.real, negative)
                )
            )  # fmt: skip
            guided = classifier_free_guidance(*real, self.fake.cfg_scale)
            x0_real, x0_fake = (predict_x0(noisy, e, alpha_bar) for e in (guided, fake))
        return vsd_loss(latents.float(), x0_real, x0_fake).loss

    def _update(self, loss: torch.Tensor, which: int) -> None:
        parameters = (self.trained, self.fitted)[which]
        self.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizers[which].step()
        self.optimizers[which].zero_grad()


def build(args: argparse.Namespace, name: str, folder: Path) -> Callable[[], float]:
    """The step of a variant."""
    model = build_trainer(args, folder)
    batch = make_batch(args.size, model.generator.prompt, str(model.accelerator.device))
    if name == OWN:
        return own_step(model, batch)
    naive = NaiveStep(model, args.base)
    model.generator.to("meta")
    return lambda: naive(batch)


def peak_of(args: argparse.Namespace, name: str, folder: Path) -> int:
    """Bytes at the peak of two updates."""
    before = resident()
    step = build(args, name, folder)
    step()
    step()
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def in_fresh_process(args: argparse.Namespace, name: str) -> int:
    """`peak_of` in a process that did nothing else."""
    command = [sys.executable, "-m", "benchmarks.stage1_step", "--child", name]
    for key in ("base", "size", "precision", "device"):
        command += [f"--{key}", str(getattr(args, key))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    args = _parser().parse_args()
    torch.set_num_threads(1)
    if args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with scratch() as folder:
        args.base = make_base(args.base, folder, args.device)
        if args.child is not None:
            print(json.dumps(peak_of(args, args.child, folder)))
            return
        # first, for a child's peak begins with what this process holds
        peaks = {name: in_fresh_process(args, name) for name in (NAIVE, OWN)}
        steps = {name: build(args, name, folder) for name in (NAIVE, OWN)}
        losses = {name: step() for name, step in steps.items()}
        if abs(losses[NAIVE] - losses[OWN]) > TOLERANCE * abs(losses[NAIVE]):
            raise SystemExit(f"first losses differ, times would compare nothing: {losses}")
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.repeats):
            for name, step in steps.items():
                times[name].append(milliseconds(step, args.device))
    print(f"{machine('torch', 'diffusers', 'peft')}; {args.device}\n")
    print("| stage 1 | first loss | ms | pictures a second | times as fast | peak MiB | of naive |")
    print("|---|---|---|---|---|---|---|")
    for name, row in times.items():
        ms, share = min(row), peaks[name] / peaks[NAIVE]
        print(
            f"| {name} | {losses[name]:.4f} | {ms:.0f} | {1e3 / ms:.2f} | "
            f"{min(times[NAIVE]) / ms:.2f} | {peaks[name] / 2**20:.0f} | {share:.2f} |"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="sd:0.125", help="sd:WIDTH or a folder (sd:0.125)")
    parser.add_argument("--size", type=int, default=128, help="of the HR picture, pixels (128)")
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
