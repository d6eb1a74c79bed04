"""Baselines: behaviour cloning, TD3+BC, CQL, ReBRAC, each with its configuration."""
