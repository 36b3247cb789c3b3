"""Measures of overlap and surface distance."""
