"""The engine that replaces the U-Net, if any."""

current_unet = None
