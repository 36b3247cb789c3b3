"""From fingerprint and architecture to the configuration of a training."""
