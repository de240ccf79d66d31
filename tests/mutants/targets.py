"""What is changed, and which tests must see it."""

from __future__ import annotations

UNIT = "tests/unit"
GROUP = f"{UNIT}/group"
STEP = (f"{GROUP}/test_recorded_step.py", f"{GROUP}/test_step.py")
LOSSES, REWARDS = f"{UNIT}/losses", f"{UNIT}/rewards"
ALL_LOSSES = f"{LOSSES}/test_group_losses.py"
STAGE1 = f"{LOSSES}/test_stage1_losses.py"
TARGETS = {
    "group/advantages.py": (f"{GROUP}/test_advantages.py", *STEP),
    "advantages.py": (f"{UNIT}/test_advantages.py",),
    "losses/base.py": (ALL_LOSSES,),
    "losses/dgpo.py": (f"{LOSSES}/test_dgpo.py", ALL_LOSSES),
    "losses/diffusion_dpo.py": (f"{LOSSES}/test_diffusion_dpo.py", ALL_LOSSES),
    "losses/diffusion_nft.py": (f"{LOSSES}/test_diffusion_nft.py", ALL_LOSSES),
    "losses/energy_score.py": (STAGE1,),
    "losses/gdpo_loss.py": (f"{LOSSES}/test_gdpo_loss.py", ALL_LOSSES),
    "losses/grpo.py": (f"{LOSSES}/test_grpo.py", ALL_LOSSES),
    "losses/multi_pair_dpo.py": (ALL_LOSSES,),
    "losses/perceptual.py": (STAGE1,),
    "losses/preference.py": (ALL_LOSSES, f"{LOSSES}/test_gdpo_loss.py"),
    "losses/reconstruction.py": (STAGE1,),
    "losses/reward_gradient.py": (f"{LOSSES}/test_reward_gradient.py", ALL_LOSSES),
    "losses/reward_weighted.py": (ALL_LOSSES,),
    "losses/sft_best.py": (ALL_LOSSES,),
    "losses/vsd_loss.py": (f"{LOSSES}/test_vsd_loss.py",),
    "group/errors.py": (f"{GROUP}/test_errors.py", *STEP),
    "group/hacks.py": (f"{GROUP}/test_hacks.py",),
    "group/sample.py": (f"{GROUP}/test_sample.py", *STEP),
    "group/score.py": (f"{GROUP}/test_score.py", *STEP),
    "group/step.py": STEP,
    "generators/diffusion_math.py": (f"{UNIT}/generators/test_diffusion_math.py",),
    "generators/one_step.py": (
        f"{UNIT}/generators/test_one_step.py",
        f"{UNIT}/generators/test_diffusion_math.py",
    ),
    "rewards/base.py": (f"{REWARDS}/test_iqa_reward.py", f"{REWARDS}/test_registry.py"),
    "rewards/registry.py": (f"{REWARDS}/test_registry.py",),
    "rewards/iqa_reward.py": (f"{REWARDS}/test_iqa_reward.py",),
    "rewards/feature_reward.py": (f"{REWARDS}/test_feature_reward.py",),
    "rewards/scoring.py": (f"{REWARDS}/test_scoring.py", f"{REWARDS}/test_iqa_reward.py"),
    "rewards/texture_share.py": (f"{REWARDS}/test_texture_share.py",),
    "rewards/patch_texture.py": (f"{REWARDS}/test_texture_share.py",),
    "rewards/user_reward.py": (f"{REWARDS}/test_registry.py",),
}
"""Files of `gdpo_sr/` and the tests that must see their changes, the quickest first."""
