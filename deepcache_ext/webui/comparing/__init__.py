"""The comparison of full pictures, presets and fewer steps."""
