"""What decides which evaluations are full, refresh or reuse."""
