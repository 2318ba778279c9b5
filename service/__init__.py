"""Llamakiln's service: one language model behind HTTP. `python -m service` starts it; README.md draws the rooms."""
