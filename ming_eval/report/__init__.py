"""A stored run as a table on the terminal, as Markdown, and while it goes on as a progress line."""
