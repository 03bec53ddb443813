"""What was tried for closeness, and what it came to; docs/research.md tells the outcome."""
