"""What is done when something goes wrong with a run: one knob for each rule of `monitor.alerts`, by the rule's name.

An alert is always told (page, `alerts.jsonl`, notices); the knob says what happens besides. Does not know how a rule
finds out; a test compares the names.
"""

from __future__ import annotations

from typing import Literal

from gemma_ft.knob import Section, knob

Action = Literal["nothing", "save", "stop"]
"""Besides telling: nothing, write a checkpoint and go on, or write one and stop (the run can be resumed)."""


class AlertsConfig(Section):
    """What happens at an alert besides telling it: nothing, save a checkpoint, or stop (which saves one first)."""

    not_finite: Action = knob("nothing", "The loss, the gradient or the held-out loss is NaN or infinite.")
    zero_loss: Action = knob("nothing", "The loss is exactly 0.0, so nothing is learned.")
    loss_explodes: Action = knob("nothing", "The loss has gone far up and stays there: the learning rate is too high.")
    loss_flat: Action = knob("nothing", "The loss has not moved: the learning rate may be far too low.")
    loss_spike: Action = knob("nothing", "The loss of a step is far above the run's own median.")
    gradient_spike: Action = knob("nothing", "The gradient of a step is far longer than the run's own median.")
    overfitting: Action = knob("nothing", "The held-out loss rises while the training goes on.")
    stalled: Action = knob("nothing", "The training has said nothing for much longer than a step takes.")
    slower: Action = knob("nothing", "The training has become less than half as fast as it was.")
    memory_full: Action = knob("nothing", "The machine's memory is nearly used up.")
    gpu_memory_full: Action = knob("nothing", "A GPU's memory is nearly used up.")
    disk_full: Action = knob("nothing", "The disk has no room for two more checkpoints.")
    gpu_throttled: Action = knob("nothing", "A GPU is so hot that it slows itself down.")
    gpu_idle: Action = knob("nothing", "No GPU does anything although the training is on.")
    hub_unreachable: Action = knob("nothing", "The Hugging Face Hub could not be reached or refused the upload.")
