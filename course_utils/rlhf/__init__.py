"""Learning from preferences: reward models, advantages, losses, rollouts, and PPO's loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actor": [
            "Actor",
            "SeparateActor",
            "SeparateActorCritic",
            "SharedActor",
            "SharedActorCritic",
        ],
        "advantages": [
            "gae",
            "grpo_advantages",
            "rloo_advantages",
            "running_baseline_advantages",
            "whiten",
        ],
        "checkable": ["CheckableReward", "Problem", "draw_problems"],
        "config": ["GRPOConfig", "GRPOResult", "PPOConfig", "PPOResult"],
        "grpo": ["train_grpo"],
        "losses": ["bradley_terry_loss", "clipped_policy_loss", "clipped_value_loss", "dpo_loss"],
        "masks": ["last_token_index"],
        "memory": ["PPOEstimate", "estimate_ppo"],
        "ppo": ["train_ppo"],
        "reward_model": ["RewardModel"],
        "variants": ["DAPO", "DR_GRPO", "GRPO", "REINFORCE", "RLOO", "Variant"],
    },
)
