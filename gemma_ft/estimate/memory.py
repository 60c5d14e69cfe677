"""PLACEHOLDER by the lead so that the trainer runs meanwhile; the estimator's engineer replaces it."""


def decide_checkpointing(config, shape, workload, machine) -> bool:
    return False
