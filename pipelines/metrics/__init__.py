"""Measures of overlap, surface distance, objects, regions and discrimination."""
