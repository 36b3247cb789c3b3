"""What a task family does in every stage, one file per family."""
