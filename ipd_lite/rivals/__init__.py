"""Baselines: behaviour cloning, TD3+BC, CQL, each with its configuration."""
