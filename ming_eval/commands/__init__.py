"""The commands of `ming-eval`, one module each: options in, one call, output. `cli.py` puts them together."""
