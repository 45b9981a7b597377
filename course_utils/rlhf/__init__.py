"""Learning from preferences: reward models, advantages, losses, rollouts, and PPO's loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "actor": ["SeparateActorCritic", "SharedActorCritic"],
        "advantages": ["gae", "grpo_advantages", "rloo_advantages", "whiten"],
        "config": ["PPOConfig", "PPOResult"],
        "losses": ["bradley_terry_loss", "clipped_policy_loss", "clipped_value_loss", "dpo_loss"],
        "masks": ["last_token_index"],
        "memory": ["PPOEstimate", "estimate_ppo"],
        "ppo": ["train_ppo"],
        "reward_model": ["RewardModel"],
    },
)
