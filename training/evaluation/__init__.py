"""Scores of a model, and measures of what it writes."""
