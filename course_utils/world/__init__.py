"""The micro-world: an invented country, its texts, task sets and probes, and a judge."""
