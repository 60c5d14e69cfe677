"""Chaos: real processes and a tiny model, hit at random moments, and the checks of what became of the runs."""
