"""Scheduling in plain Python: no torch, so it runs and is tested on any machine."""
