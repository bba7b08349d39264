"""Measurements that anyone can make again."""
