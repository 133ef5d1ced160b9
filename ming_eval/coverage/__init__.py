"""One small set of requests per modality: does a server take it, answer it, and how fast."""
