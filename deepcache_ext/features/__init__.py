"""What is kept of the deep blocks, for whom, and what becomes of it."""
