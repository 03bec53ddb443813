"""What takes hold of the U-Net: its anatomy, the hook, and what stands in for its blocks."""
