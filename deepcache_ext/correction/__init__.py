"""Making up for what reuses were off."""
