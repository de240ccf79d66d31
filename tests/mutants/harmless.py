"""Changes that may live: nothing that the package promises is different. By reason, as printed."""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    "the tensor is (B, G), whose last dimension is 1": (
        "advantages.py: high = torch.where(finite, scores, -torch.inf).amax(-1, keepdim=True)"
        " | -1 -> 1",
        "advantages.py: low = torch.where(finite, scores, torch.inf).amin(-1, keepdim=True)"
        " | -1 -> 1",
        "advantages.py: mean, std = finite_mean(rewards, -1), finite_std(rewards, -1) | -1 -> 1",
        "advantages.py: return _without_missing(rewards, rewards - finite_mean(rewards, -1))"
        " | -1 -> 1",
        "advantages.py: return draw_rows(torch.rand, shape, rng).argsort(-1) | -1 -> 1",
        "group/advantages.py: return {name: values.gather(-1, order.to(values.device))"
        " for name, values in scores.items()} | -1 -> 1",
        "group/hacks.py: spreads = {name: finite_std(scores, -1) for name, scores in"
        " before.items()} | -1 -> 1",
        "group/hacks.py: gains = {k: (gap / (spreads[k] + 1e-8)).mean(-1) for k, gap in"
        " gaps.items()} | -1 -> 1",
        'group/hacks.py: gains["total"] = total_in_spreads(gaps, spreads, texture, rewards)'
        ".mean(-1) | -1 -> 1",
        "group/step.py: spread = finite_std(batch if gather is None else gather(batch), -1).mean()"
        " | -1 -> 1",
        "group/step.py: return RewardValues(total, finite_std(total.detach(), -1).mean())"
        " | -1 -> 1",
        "group/step.py: spreads = {name: finite_std(s.detach(), -1) for name, s in scores.items()}"
        " | -1 -> 1",
        "losses/base.py: return values.flatten(1).mean(-1) if values.ndim > 1 else values"
        " | -1 -> 1",
        "losses/gdpo_loss.py: return change.flatten(2).mean(-1).sum(-1) if change.ndim > 2"
        " else change.sum(-1) | -1 -> 1",
        "losses/multi_pair_dpo.py: count = max(1, round(fraction * values.shape[-1])) | -1 -> 1",
        "losses/multi_pair_dpo.py: high = values.nan_to_num(-torch.inf).topk(count, -1) | -1 -> 1",
        "losses/multi_pair_dpo.py: high.indices.repeat_interleave(count, -1), | -1 -> 1",
        "losses/multi_pair_dpo.py: low = values.nan_to_num(torch.inf)"
        ".topk(count, -1, largest=False) | -1 -> 1",
        "losses/multi_pair_dpo.py: mean_gap = gap.sum(-1, keepdim=True)"
        " / real.sum(-1, keepdim=True).clamp(min=1) | -1 -> 1",
        "losses/multi_pair_dpo.py: return change.gather(-1, pairs.winner)"
        " - change.gather(-1, pairs.loser) | -1 -> 1",
        "losses/multi_pair_dpo.py: spread = finite_std(values, -1) | -1 -> 1",
    ),
    "the tensor is (B, G, h, w) or (B, 3, H, W), whose last dimension but one is 2": (
        "group/score.py: grid = hr.shape[-2] // cell_size, hr.shape[-1] // cell_size | -2 -> 2",
        "group/score.py: return scores if scores.ndim == 2 else scores.mean((-2, -1)) | -2 -> 2",
        "rewards/texture_share.py: height, width = images.shape[-2:] | -2 -> 2",
        'group/sample.py: return F.interpolate(lr, size=hr.shape[-2:], mode="bicubic").clamp(0, 1)'
        " * 2 - 1 | -2 -> 2",
        "group/advantages.py: return grid.repeat_interleave(side, -2).repeat_interleave(side, -1)"
        " | -2 -> 2",
    ),
    "shapes are (B, G) or (B, G, h, w): no number of dimensions lies between": (
        "losses/base.py: return values.flatten(1).mean(-1) if values.ndim > 1 else values | 1 -> 2",
        "losses/gdpo_loss.py: return change.flatten(2).mean(-1).sum(-1) if change.ndim > 2"
        " else change.sum(-1) | 2 -> 3",
        "losses/grpo.py: dims = -3 if advantages.ndim > 2 else (-3, -2, -1) | 2 -> 3",
    ),
    "one chunk of everything is everything": (
        "group/sample.py: if chunk is None or chunk >= len(tensors[0]):"
        " | chunk >= len(tensors[0]) -> chunk > len(tensors[0])",
    ),
    "there are as many parts as batches: they were split by them": (
        "group/step.py: for item, own in zip(items, found.split([len(i.texture) for i in items]),"
        " strict=True): | True -> False",
        "group/step.py: for item, own in zip(items, values, strict=True): | True -> False",
    ),
    "a tie is 0 by the next line, whatever it was divided by": (
        "advantages.py: normalized = (scores - low) / torch.where(tie, 1, high - low) | 1 -> 2",
    ),
    "weights are divided by their sum": (
        "advantages.py: shares = normalized.new_tensor(weights or [1.0] * len(scores))"
        "[:, None, None] | 1.0 -> 2.0",
    ),
    "the order of the words of a type says nothing": (
        'rewards/base.py: Kind = Literal["fidelity", "perception"] | "fidelity" -> \'perception\'',
        'rewards/base.py: Kind = Literal["fidelity", "perception"] | "perception" -> \'fidelity\'',
    ),
    "a margin and its strength are multiplied": (
        "losses/diffusion_dpo.py: return preference_loss(pair_margin(policy_error,"
        " reference_error, advantages), beta) | preference_loss(pair_margin(policy_error,"
        " reference_error, advantages), beta) -> preference_loss(beta, pair_margin(policy_error,"
        " reference_error, advantages))",
        "losses/gdpo_loss.py: return preference_loss(preference_margin(policy_error,"
        " reference_error, advantages), omega) | preference_loss(preference_margin(policy_error,"
        " reference_error, advantages), omega) -> preference_loss(omega,"
        " preference_margin(policy_error, reference_error, advantages))",
        "losses/preference.py: output = preference_loss(margin, omega, weights)"
        " | preference_loss(margin, omega, weights) -> preference_loss(omega, margin, weights)",
    ),
    "any multiple of a gradient serves to see whether there is one": (
        "rewards/scoring.py: [gradient] = torch.autograd.grad(scores.sum(), candidates)"
        " | scores.sum -> scores.mean",
    ),
    "any noise will do, with either sign, and a step's length is set": (
        "group/step.py: rng = torch.Generator().manual_seed(0) | 0 -> 1",
        "group/hacks.py: return images + LEVEL * draw_noise(tuple(images.shape), rng,"
        " images.device, images.dtype) | images + LEVEL * draw_noise(tuple(images.shape), rng,"
        " images.device, images.dtype) -> images - LEVEL * draw_noise(tuple(images.shape), rng,"
        " images.device, images.dtype)",
        "group/hacks.py: [gradient] = torch.autograd.grad(score(found).sum(), found)"
        " | score(found).sum -> score(found).mean",
    ),
    "a bound, or how many are worked on at once: what is not decided by it is computed": (
        "rewards/patch_texture.py: FEW_BINS = 8 | 8 -> 9",
        "rewards/patch_texture.py: GENTLE = 4 | 4 -> 5",
        "rewards/patch_texture.py: SAMPLES = 2**18 | 18 -> 19",
        "rewards/patch_texture.py: SAMPLES = 2**18 | 2 -> 3",
        "rewards/patch_texture.py: parts = patches.split(SAMPLES * share // total)"
        " | SAMPLES * share // total -> SAMPLES * share * total",
        "rewards/patch_texture.py: parts = patches.split(SAMPLES // ENLARGED**2)"
        " | ENLARGED**2 -> ENLARGED*2",
        "rewards/patch_texture.py: parts = patches.split(SAMPLES // ENLARGED**2)"
        " | SAMPLES // ENLARGED**2 -> SAMPLES * ENLARGED**2",
        "rewards/patch_texture.py: return (_counts_of_few if used <= FEW_BINS else"
        " _counts_of_many)(squares, used) | used <= FEW_BINS -> used < FEW_BINS",
        "rewards/patch_texture.py: rough = order[height >= 0.999]"
        " | height >= 0.999 -> height > 0.999",
        "rewards/patch_texture.py: smooth_y, steps_y, place_y = _sobel(height, every[0],"
        " patches.device) | 0 -> 1",
        "rewards/patch_texture.py: steep = order[height >= GENTLE]"
        " | height >= GENTLE -> height > GENTLE",
        "rewards/patch_texture.py: taken = slice(every // 2, None, every) | 2 -> 3",
        "rewards/patch_texture.py: textured[steep] = least_complexity(patches[steep]) > threshold"
        " | least_complexity(patches[steep]) > threshold"
        " -> least_complexity(patches[steep]) >= threshold",
        "rewards/patch_texture.py: total, share = ENLARGED**2, SPARSE[0] * SPARSE[1] | 0 -> 1",
    ),
    "one more bin that is empty": (
        "rewards/patch_texture.py: reaching = squares.new_zeros(used + 1, squares.shape[1])"
        " | 1 -> 2",
        "rewards/patch_texture.py: used = int(squares.max().sqrt()) + 1 if len(patches) else 1"
        " | 1 -> 2",
    ),
    "the mean over a patch of one pixel is the pixel": (
        "losses/energy_score.py: return F.avg_pool2d(values, size, stride=max(size // 2, 1)) if"
        " size > 1 else values | size > 1 -> size >= 1",
    ),
    "a step there and back is as large as there": (
        "rewards/patch_texture.py: step_x = patches.diff(dim=2, prepend=patches[:, :, :1]).abs()"
        ".amax((1, 2)) | 1 -> 2",
        "rewards/patch_texture.py: step_y = patches.diff(dim=1, prepend=patches[:, :1]).abs()"
        ".amax((1, 2)) | 1 -> 2",
    ),
    "a difference's size, and the larger of two types, are symmetric": (
        "losses/reconstruction.py: return LossOutput(_ERRORS[kind](images, hr))"
        " | _ERRORS[kind](images, hr) -> _ERRORS[kind](hr, images)",
        "group/errors.py: drift = self._distance(prediction, self.anchor)"
        " | self._distance(prediction, self.anchor) -> self._distance(self.anchor, prediction)",
        "group/errors.py: return self._distance(prediction, self.wanted)"
        " | self._distance(prediction, self.wanted) -> self._distance(self.wanted, prediction)",
        "group/errors.py: return _own_errors(self._distance(prediction[:, :, None], self.wanted),"
        " self.imitate) | self._distance(prediction[:, :, None], self.wanted)"
        " -> self._distance(self.wanted, prediction[:, :, None])",
        "group/errors.py: return self.unit * mean_squared_error(prediction, wanted, dims)"
        " | mean_squared_error(prediction, wanted, dims)"
        " -> mean_squared_error(wanted, prediction, dims)",
        "group/errors.py: return x.to(torch.promote_types(x.dtype, torch.float32))"
        " | torch.promote_types(x.dtype, torch.float32)"
        " -> torch.promote_types(torch.float32, x.dtype)",
        "group/errors.py: kind = latents.device, torch.promote_types(latents.dtype, torch.float32)"
        " | torch.promote_types(latents.dtype, torch.float32)"
        " -> torch.promote_types(torch.float32, latents.dtype)",
    ),
}
HARMLESS = {change: reason for reason, changes in REASONS.items() for change in changes}
