"""Recorded data as offline datasets: every check of episodes, spaces and Minari files."""
