"""What a server can do, found out by asking it: which dialect fits, and what will not be measurable."""
