"""Measurements: this project and a peer in turn, or a figure of the project that README states."""
