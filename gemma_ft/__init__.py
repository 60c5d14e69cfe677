"""Fine-tune Google's Gemma models from a page or a terminal."""

__version__ = "0.1.0"
