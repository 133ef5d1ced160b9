"""What to send, when to send it, and the run that does it."""
