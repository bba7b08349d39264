"""Conversion to and from the models that transformers and torch ship, and the measurements that compare them."""
