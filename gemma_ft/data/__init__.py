"""Data: bundled files and whatever reads, checks and prepares training rows."""
