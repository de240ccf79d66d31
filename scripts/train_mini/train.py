"""Train the embedded base `mini` from a folder of photographs, on CPU or GPU, within a time budget.

    python scripts/train_mini/collect_photos.py UNPACKED photos
    python scripts/train_mini/train.py --photos photos/train --out runs/mini --minutes 60
    python scripts/train_mini/train.py --photos photos/train --out runs/mini --minutes 60     #
    again: resumes

The autoencoder is fitted first (closed form); then the one-step generator is trained end to end on
online degradations with the
energy score. Every random number comes from --seed; the state is saved every few minutes and at the
end, and the model is
written in diffusers layout to OUT/mini.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from energy_score import energy_score, gradients, spread_weight
from fit_autoencoder import fit_autoencoder
from networks import PROMPT, build_text_encoder, build_tokenizer, build_unet, build_vae
from start_linear import start_linear

from gdpo_sr.data.degradations import RealESRGANDegradation
from gdpo_sr.data.online_dataset import OnlineDataset
from gdpo_sr.generators.load import build_generator
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.schedulers.one_step import OneStepScheduler


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", required=True, help="folder of HR photographs")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for the state and the model"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="training time in all (default 60)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crop", type=int, default=128, help="HR crop in pixels (default 128)")
    parser.add_argument(
        "--batch", type=int, default=6, help="LR pictures a step; each is restored twice"
    )
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--beta", type=float, default=0.75, help="weight of the spread on texture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


class PhotoStream:
    """Crops and their degraded, re-enlarged copies, in [-1, 1], by draw number."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.dataset = OnlineDataset(arguments.photos, arguments.crop, arguments.seed)
        self.degrade = RealESRGANDegradation(scale=4)
        self.device = arguments.device

    def crops(self, start: int, count: int) -> torch.Tensor:
        """HR crops number start .. start + count - 1, (count, 3, H, W)."""
        items = [self.dataset[start + i]["hr"] for i in range(count)]
        return torch.stack(items).to(self.device) * 2 - 1

    def enlarged_lr(self, hr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Degraded hr (N, 3, H, W), resized back to its size."""
        lr = self.degrade((hr + 1) / 2, rng)
        return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1) * 2 - 1


@torch.no_grad()
def prepare_generator(generator, stream: PhotoStream, rng: torch.Generator) -> None:
    """Fit the autoencoder, then start the UNet as the best linear restoration; 240 crops, 40
    degraded batches.
    """
    hr = stream.crops(0, 240)
    lr = torch.cat([stream.enlarged_lr(part, rng) for part in hr.split(6)])
    fit_autoencoder(generator.vae, hr, lr)
    latents = generator.encode(lr)
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    noisy = generator.scheduler.add_noise(latents, noise)
    start_linear(generator.unet, generator.scheduler, noisy, generator.encode(hr))


def total_loss(first, second, hr, latents, beta: float) -> torch.Tensor:
    """Energy score of pixels, of their gradients and of the latents; pictures in [-1, 1]."""
    x, x2 = first[0], second[0]
    weight = spread_weight(hr, beta)
    pixels = energy_score(x, x2, hr, weight, sizes=(1, 4, 16))
    inner = weight[..., :-1, :-1]
    edges = energy_score(gradients(x), gradients(x2), gradients(hr), inner, sizes=(2, 8))
    coarse = F.avg_pool2d(weight, hr.shape[-1] // latents.shape[-1])
    coded = energy_score(first[1], second[1], latents, coarse, sizes=(1, 4))
    return pixels + edges + 0.03 * coded


class MiniTrainer:
    """Generator, optimizer, averaged weights and everything needed to go on after a stop."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        torch.manual_seed(arguments.seed)
        arguments.out.mkdir(parents=True, exist_ok=True)
        self.stream = PhotoStream(arguments)
        self.rng = torch.Generator().manual_seed(arguments.seed)
        tokenizer = build_tokenizer(arguments.out / "tokenizer")
        self.parts = {
            "unet": build_unet(),
            "vae": build_vae(),
            "text_encoder": build_text_encoder(tokenizer),
            "tokenizer": tokenizer,
            "scheduler": OneStepScheduler(),
            "prompt": PROMPT,
        }
        self.generator = build_generator(self.parts).to(arguments.device)
        self.unet = self.generator.unet.requires_grad_(True).train()
        self.average = torch.optim.swa_utils.AveragedModel(
            self.unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=arguments.lr, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step, self.seconds = 0, 0.0
        self.state_file = arguments.out / "state.pt"
        if not self.resume():
            prepare_generator(self.generator, self.stream, self.rng)
            self.average.module.load_state_dict(self.unet.state_dict())

    def resume(self) -> bool:
        """Continue from the last state, if there is one."""
        if not self.state_file.is_file():
            return False
        state = torch.load(self.state_file, weights_only=True)
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"resumed at step {self.step}, {self.seconds / 60:.1f} minutes")
        return True

    def save(self) -> None:
        """Write the state, then the model with averaged weights."""
        state = {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.state_file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.state_file)
        unet = build_unet()
        unet.load_state_dict(self.average.module.state_dict())
        pipeline = OneStepSRPipeline(**{**self.parts, "unet": unet})
        pipeline.to("cpu", torch.float16).save_pretrained(self.arguments.out / "mini")
        self.generator.to(self.arguments.device, torch.float32)

    def learning_rate(self) -> float:
        """Cosine over the time budget after a short warm-up."""
        done = min(self.seconds / (60 * self.arguments.minutes), 1.0)
        warm_up = min(1.0, (self.step + 1) / 50)
        return self.arguments.lr * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def train_step(self) -> torch.Tensor:
        """One update on a fresh batch; returns the detached loss."""
        batch, generator = self.arguments.batch, self.generator
        hr = self.stream.crops(self.step * batch, batch)
        latents = generator.encode(self.stream.enlarged_lr(hr, self.rng)).repeat(2, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=self.rng).to(latents.device)
        embeds = generator.prompt_encoder([PROMPT] * (2 * batch))
        restored = generator.restore_latents(latents, noise, embeds)
        images = generator.vae.decode(restored).sample
        pairs = list(zip(images.split(batch), restored.split(batch), strict=True))
        loss = total_loss(pairs[0], pairs[1], hr, generator.encode(hr), self.arguments.beta)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.unet)
        return loss.detach()

    def run(self) -> None:
        """Train until the budget is spent."""
        shown, saved, window = time.monotonic(), time.monotonic(), []
        while self.seconds < 60 * self.arguments.minutes:
            start = time.monotonic()
            window.append(float(self.train_step()))
            self.step += 1
            now = time.monotonic()
            self.seconds += now - start
            if now - shown > 20:
                left = self.arguments.minutes - self.seconds / 60
                print(
                    f"step {self.step} loss {sum(window) / len(window):.4f} "
                    f"{(now - start):.2f} s/step, {left:.1f} min left",
                    flush=True,
                )
                shown, window = now, []
            if now - saved > 240:
                self.save()
                saved = now
        self.save()
        print(f"{self.step} steps; model in {self.arguments.out / 'mini'}")


if __name__ == "__main__":
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    MiniTrainer(options).run()
