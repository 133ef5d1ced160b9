"""From checkpoint files to parameters: every tensor used or skipped on purpose, every parameter filled."""
