"""Learning from preferences: reward models, advantages, losses, rollouts, and PPO's loop."""
