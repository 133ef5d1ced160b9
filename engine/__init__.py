"""Reference inference engine for Ming-flash-omni-2.0; start it with `python -m engine`."""
