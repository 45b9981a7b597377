"""The same runs with TRL's trainers."""
