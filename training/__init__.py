"""Corpora, recipes, the training loop, evaluation and publishing."""
