"""Tuning presets for a checkpoint, and using what was found."""
