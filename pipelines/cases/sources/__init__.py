"""Data sets that are made or fetched by code, one file each."""
