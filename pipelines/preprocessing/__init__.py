"""Crop, normalise, resample, store."""
