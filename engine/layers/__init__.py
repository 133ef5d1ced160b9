"""Building blocks of the thinker: each knows what its rank holds, none knows the checkpoint."""
