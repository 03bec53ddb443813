"""The adapter for the AUTOMATIC1111 WebUI: all that imports gradio or the host's `modules`."""
