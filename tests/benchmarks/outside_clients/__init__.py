"""Clients that others wrote, run against the endpoint: `python -m tests.benchmarks.outside_clients`."""
