"""Runs: the paper and its rivals trained, stored, evaluated and swept over seeds."""
