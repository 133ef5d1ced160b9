"""Rates of the engine without HTTP: decode by batch size, prefill, and where the time of a step goes."""
