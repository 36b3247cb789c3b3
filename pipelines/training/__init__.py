"""The training loop, its parts, and the Ray worker around it."""
