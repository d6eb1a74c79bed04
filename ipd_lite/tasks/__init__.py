"""Tasks: environments, how their data is made or fetched, and rollouts in them."""
