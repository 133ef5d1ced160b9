"""Data of the suites: bundled prompts and test items. Imports nothing."""
