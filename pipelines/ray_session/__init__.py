"""Where work runs: this process, other processes, or a Ray cluster."""
