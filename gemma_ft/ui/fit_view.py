"""What the Review shows of a run before it starts: the fit, its prices, a measurement, and the Doctor's card.

Pure functions from the engine's plain values to HTML. Promises that every text is escaped, that an estimate is a range
and a measurement is not, and that a button carries the change it makes (`wiring.PRESSES`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gemma_ft.ui.present import DASH, count, duration, size

Fit = Mapping[str, Any]

VERDICTS = {
    "fits": "It fits",
    "tight": "It is tight: it may run out of memory",
    "no": "It does not fit",
}
MARKS = {"good": "✓", "warning": "!", "bad": "✗", "unknown": "?"}
SAID = {"good": "good", "warning": "to consider", "bad": "wrong", "unknown": "not known"}


def fit_html(fit: Fit | None, problem: Mapping[str, str] | None = None) -> str:
    """Return the card "Will it run, how long, how much?"."""
    if fit is None:
        why = escape(problem["what_happened"]) if problem else "The data has to be usable first."
        return f'<div class="fit"><h3>Will it run, how long, how much?</h3><p class="hint">{why}</p></div>'
    memory = fit["memory"]
    where = "GPU memory" if memory["where"] == "GPU" else "memory"
    needed = _span(memory["low"], memory["high"])
    headline = f"{VERDICTS[memory['fits']]}: {needed} of {size(memory['available'])} free {where}"
    again = "Activations are computed twice, to need less. " if fit["gradient_checkpointing"] else ""
    together = (
        f"{fit['processes']} processes train together, on a GPU each if there are any. " if fit["processes"] > 1 else ""
    )
    spread = "The weights are spread over them. " if fit["sharding"] else ""
    supposed = "" if fit["measured_data"] else "The data was not measured: half-full rows are supposed. "
    return (
        f'<div class="fit" data-fits="{memory["fits"]}"><h3>Will it run, how long, how much?</h3>'
        f'<p class="fit-headline">{escape(headline)}</p>{_bar(memory)}{_terms(memory)}'
        f'<p class="hint">{together}{spread}{again}{supposed}On {escape(fit["machine"]["name"])}.</p>'
        f"{_plan(fit)}{_remedies(fit)}{_prices(fit)}</div>"
    )


def measured_html(found: Mapping[str, Any], fit: Fit | None) -> str:
    """Return the figures of three real steps, and what they say of the whole run."""
    available = fit["memory"]["available"] if fit else None
    share = f" of {size(available)} that were free" if available else ""
    tiles = [
        ("Peak memory", size(found["peak"]), f"{found['where']}, measured{share}"),
        ("A step", duration_exact(found["step_seconds"]), "with the longest rows, after the first step"),
        ("First step", duration_exact(found["first_step_seconds"]), "with warming up"),
        ("Speed", f"{count(found['step_tokens'] / found['step_seconds'])} tokens/s", "padding included"),
    ]
    if fit:
        steps = fit["plan"]["steps"]
        most = steps * found["step_seconds"]
        least = most * min(1.0, found["run_tokens"] / max(1, found["step_tokens"]))
        tiles.append(("The whole run", _range(least, most), f"{steps:,} steps at this pace"))
    return f'<div class="fit measured"><h3>Measured on this machine</h3>{_tiles(tiles)}</div>'


def doctor_html(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the Doctor's card: a line for each finding, with its remedy."""
    if not findings:
        return ""
    lines = "".join(_finding(finding) for finding in findings)
    return f'<div class="doctor"><h3>Gemma Doctor</h3><ul>{lines}</ul></div>'


def duration_exact(seconds: float) -> str:
    """Say a short time: 0.042 s, 1.7 s, and longer ones as `duration` does."""
    return f"{seconds:.3f} s" if seconds < 0.1 else f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def button(label: str, changes: Mapping[str, Any]) -> str:
    """Return a button that makes changes to the form."""
    return f'<button type="button" data-changes="{escape(json.dumps(changes), quote=True)}">{escape(label)}</button>'


def _finding(finding: Mapping[str, Any]) -> str:
    state = finding["state"]
    more = ""
    if finding["fix"] is not None:
        more += button(finding["fix_label"] or "Fix", finding["fix"])
    if finding["link"]:
        more += f' <a href="{escape(finding["link"], quote=True)}" target="_blank" rel="noopener">Open the page</a>'
    return (
        f'<li data-state="{state}"><span class="mark" title="{SAID[state]}">{MARKS[state]}</span>'
        f"<b>{escape(finding['name'])}</b> <span>{escape(finding['text'])}</span> {more}</li>"
    )


def _span(low: int, high: int) -> str:
    """Say a range of bytes; one figure when the ends look the same."""
    return size(low) if size(low) == size(high) else f"{size(low)} to {size(high)}"


def _bar(memory: Mapping[str, Any]) -> str:
    """Return the parts as one bar, as wide as what is free; it runs over the line when they do not fit."""
    whole = max(memory["high"], memory["available"], 1)
    parts = "".join(
        f'<span class="part part-{place}" style="width:{term["high"] / whole * 100:.2f}%" '
        f'title="{escape(term["name"])}: {_span(term["low"], term["high"])}"></span>'
        for place, term in enumerate(memory["terms"])
    )
    line = f'<span class="free-line" style="left:{min(100.0, memory["available"] / whole * 100):.2f}%"></span>'
    return f'<div class="memory-bar" aria-hidden="true">{parts}{line}</div>'


def _terms(memory: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch part-{place}"></span>{escape(term["name"].capitalize())}</th>'
        f"<td>{_span(term['low'], term['high'])}</td><td>{escape(term['why'])}</td></tr>"
        for place, term in enumerate(memory["terms"])
    )
    return f'<details class="terms"><summary>What takes how much</summary><table>{rows}</table></details>'


def _plan(fit: Fit) -> str:
    plan, prices = fit["plan"], fit["prices"]
    best = next((offer for offer in prices["offers"] if offer["name"] == prices["cheapest"]), None)
    low, high = plan["seconds_low"], plan["seconds_high"]
    tiles = [
        ("Steps", f"{plan['steps']:,}", f"{count(plan['tokens'])} tokens, {count(plan['supervised_tokens'])} learned"),
        ("Time", _range(low, high), "a rough estimate; Measure makes it a figure"),
        ("Disk", size(plan["disk_bytes"]), f"checkpoints and result; {size(fit['machine']['disk_free'])} are free"),
        (
            "Cheapest that fits",
            best["label"] if best else DASH,
            f"{_dollars(best['dollars'])} in all, {_hours(best['hours'])}" if best else "none on the list",
        ),
    ]
    return _tiles(tiles)


def _tiles(tiles: Sequence[tuple[str, str, str]]) -> str:
    shown = "".join(
        f'<div class="figure"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><p class="hint">{escape(more)}</p></div>'
        for name, value, more in tiles
    )
    return f'<dl class="figures">{shown}</dl>'


def _remedies(fit: Fit) -> str:
    if not fit["remedies"]:
        return ""
    lines = "".join(
        f'<li data-fits="{remedy["fits"]}">{button(remedy["label"], remedy["changes"])} '
        f"<span>{escape(remedy['cost'])} Then {_span(remedy['low'], remedy['high'])}"
        f"{': it fits' if remedy['fits'] == 'fits' else ', which is not enough alone'}.</span></li>"
        for remedy in fit["remedies"]
    )
    return f'<div class="remedies"><h4>What would make it fit</h4><ul>{lines}</ul></div>'


def _prices(fit: Fit) -> str:
    prices = fit["prices"]
    rows = "".join(
        f'<tr data-fits="{offer["fits"]}"{" class=cheapest" if offer["name"] == prices["cheapest"] else ""}>'
        f'<th scope="row">{escape(offer["label"])}</th><td>${offer["dollars_per_hour"]:.2f}</td>'
        f"<td>{ {'fits': 'fits', 'tight': 'tight', 'no': 'too small'}[offer['fits']] }</td>"
        f"<td>{_hours(offer['hours']) if offer['fits'] != 'no' else DASH}</td>"
        f"<td>{_dollars(offer['dollars']) if offer['fits'] != 'no' else DASH}</td></tr>"
        for offer in prices["offers"]
    )
    when = f"Prices of {prices['dated']}: the Hub did not answer." if prices["dated"] else "Prices as the Hub says now."
    return (
        '<details class="prices"><summary>Prices on Hugging Face</summary><div class="wide"><table>'
        "<tr><th>Machine</th><th>An hour</th><th>Memory</th><th>Time</th><th>In all</th></tr>"
        f'{rows}</table></div><p class="hint">{when} Estimates; one GPU of each is used.</p></details>'
    )


def _hours(hours: Sequence[float]) -> str:
    return _range(hours[0] * 3600, hours[1] * 3600)


def _range(least: float, most: float) -> str:
    """Say a range of seconds; one figure when the ends look the same."""
    low, high = duration(least), duration(most)
    return low if low == high else f"{low} to {high}"


def _dollars(dollars: Sequence[float]) -> str:
    low, high = (f"${value:,.2f}" for value in dollars)
    return low if low == high else f"{low} to {high}"
