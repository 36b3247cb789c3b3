"""From a prepared case to a mask on the grid of the scan."""
