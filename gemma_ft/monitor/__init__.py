"""Reading what happens: the machine, and the facts of a run."""
