"""Checks and times every kernel at the sizes of the released model: `python -m engine.kernels.bench`."""
