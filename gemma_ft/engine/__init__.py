"""The engine: one child process that loads models to answer questions, and its client in the page."""
