"""Scores of cases, intervals, the ranking and the reference row."""
