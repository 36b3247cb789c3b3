"""Parts that two architectures or more share."""
