"""Accuracy: suites, what a model answers, what that answer is worth, and how sure the figure is."""
