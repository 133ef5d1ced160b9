"""Latency, audio and run-level figures, computed from what the client recorded."""
