"""Stored runs side by side: paired ratios with intervals, one verdict, a gate, and agreement of what was said."""
