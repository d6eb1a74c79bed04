"""What the notebooks share: the running example, checks of exercises, widgets."""
