"""Copies of one image in a pool and in guarded sets: found by hash, decided by pixels."""
