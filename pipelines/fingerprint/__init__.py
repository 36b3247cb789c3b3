"""What the training cases of a data set look like."""
