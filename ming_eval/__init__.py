"""Benchmarks and evaluation for omni-modal inference servers, and a reference engine to try them on."""
