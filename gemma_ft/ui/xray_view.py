"""The X-ray of data as HTML: figures, lengths, and rows as they came beside what the model sees. Pure functions.

Promises that nothing from the data becomes markup: every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gemma_ft.ui.present import DASH, rows_of

LEGEND = """<p class="xray-legend"><span class="tok trained">trained</span> <span class="tok">not trained</span>
<span class="tok special">special token</span> <span class="tok">·</span> hover over a token for its number</p>"""
WIDTH, HEIGHT = 600, 120
LONGEST_RAW = 4_000
"""Characters of one column that are shown."""


def figures_html(figures: Mapping[str, Any]) -> str:
    """Return the figures of an X-ray as tiles; what needs attention is marked."""
    sequences, rows = figures["sequences"], figures["rows"]
    cut, lost = figures["truncated_rows"], figures["lost_answer_tokens"]
    tiles = [
        ("Tokens", f"{figures['tokens']:,}", f"in {rows_of(rows)}", False),
        ("Trained", f"{figures['supervised_fraction']:.0%}", f"{figures['supervised_tokens']:,} tokens", False),
        _tile("Rows cut", cut, f"{lost:,} answer tokens lost" if cut else f"none over {figures['max_length']:,}"),
        _tile("Nothing to learn", figures["zero_supervised_rows"], "rows without a trained token"),
        _share("Begins with one BOS", figures["bos_once_rows"], sequences),
        _share("End of answer trained", figures["end_trained_rows"], sequences),
        ("Packing would save", _saved(figures["packing_gain"]), "of the places that padding takes", False),
    ]
    if figures["system_turns"]:
        folded = figures["system_turns"] != "own turn"
        more = "into the first question: this model has no system turn" if folded else "as a turn of its own"
        tiles.append(("System text", "folded" if folded else "kept", more, False))
    return f'<dl class="figures">{"".join(_figure(*tile) for tile in tiles)}</dl>'


def lengths_html(figures: Mapping[str, Any]) -> str:
    """Return how long the rows are, as bars with a line at the maximum length."""
    bars = figures["histogram"]
    if not bars:
        return ""
    top, limit = max(count for _, _, count in bars), figures["max_length"]
    widest = max(bars[-1][1], limit if limit <= 2 * bars[-1][1] else 0)
    drawn = "".join(
        f'<rect class="{"rows over" if begin >= limit else "rows"}" x="{begin / widest * WIDTH:.1f}" '
        f'y="{HEIGHT - count / top * HEIGHT:.1f}" width="{max((end - begin) / widest * WIDTH - 1, 1):.1f}" '
        f'height="{count / top * HEIGHT:.1f}"><title>{begin:,} to {end - 1:,} tokens: {count:,} rows</title></rect>'
        for begin, end, count in bars
        if count
    )
    line = ""
    if limit <= widest:
        at = f"{limit / widest * WIDTH:.1f}"
        line = f'<line class="limit" x1="{at}" x2="{at}" y1="0" y2="{HEIGHT}"/>'
    lengths = figures["lengths"]
    where = "the line" if line else "far to the right"
    words = (
        f"Half of the rows have up to {lengths['p50']:,} tokens, 99% up to {lengths['p99']:,}, the longest has "
        f"{lengths['longest']:,}. Maximum length: {limit:,} ({where})."
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Lengths of the rows in tokens">{drawn}{line}</svg>'
    )
    return (
        f'<div class="lengths">{svg}<div class="lengths-axis"><span>0</span><span>{widest:,} tokens</span></div>'
        f"<p>{words}</p></div>"
    )


def rows_html(rows: Sequence[Mapping[str, Any]], first: int) -> str:
    """Return rows as they came, each beside what the model sees of it."""
    shown = []
    for number, row in enumerate(rows, start=first + 1):
        seen = "".join(_view(view) for view in row["views"])
        raw = _raw(row["raw"])
        shown.append(
            f'<div class="xray-row"><h4>Row {number} of those to train on</h4>'
            f'<div class="xray-sides">{raw}<div>{seen}</div></div></div>'
        )
    return LEGEND + "".join(shown)


def raw_html(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as they came, for when there is no X-ray."""
    return "".join(f'<div class="xray-row">{_raw(row)}</div>' for row in rows)


def summary(figures: Mapping[str, Any]) -> str:
    """Return the X-ray in one sentence."""
    measured = f"the first {figures['rows']:,} of " if figures["rows"] < figures["of"] else ""
    parts = [
        f"{figures['supervised_fraction']:.0%} of {figures['tokens']:,} tokens are trained "
        f"(measured on {measured}{rows_of(figures['of'])})"
    ]
    if cut := figures["truncated_rows"]:
        lost = figures["lost_answer_tokens"]
        parts.append(f"{rows_of(cut)} cut at {figures['max_length']:,} tokens, with {lost:,} answer tokens lost")
    if nothing := figures["zero_supervised_rows"]:
        parts.append(f"{rows_of(nothing)} left out, with nothing to learn")
    return "; ".join(parts) + "."


def _tile(name: str, number: int, more: str) -> tuple[str, str, str, bool]:
    return name, f"{number:,}", more, number > 0


def _share(name: str, number: int, of: int) -> tuple[str, str, str, bool]:
    """Say that something holds for all, or for how many it does not."""
    if not of:
        return name, DASH, "", False
    return (name, "yes", "in every row", False) if number == of else (name, "no", f"in {of - number:,} of {of:,}", True)


def _saved(gain: float) -> str:
    return f"{1 - 1 / gain:.0%}" if gain > 1 else "nothing"


def _figure(name: str, value: str, more: str, attention: bool) -> str:
    mark = " attention" if attention else ""
    return f'<div class="figure{mark}"><dt>{escape(name)}</dt><dd>{value}</dd><dt>{escape(more)}</dt></div>'


def _raw(row: Mapping[str, str]) -> str:
    columns = (f"<b>{escape(name)}</b>: {escape(text[:LONGEST_RAW])}" for name, text in row.items())
    return f'<pre class="raw" aria-label="Row as it came">{"<br>".join(columns)}</pre>'


def _view(view: Mapping[str, Any]) -> str:
    title = f"<h5>{escape(view['title'])}</h5>" if view["title"] else ""
    tokens = "".join(_token(*piece) for piece in view["pieces"])
    shown = sum(len(ids) for *_, ids in view["pieces"])
    more = f" … {view['tokens'] - shown:,} more tokens" if view["tokens"] > shown else ""
    cut = f'<span class="cut">✂ {view["cut"]:,} tokens cut off</span>' if view["cut"] else ""
    return f'{title}<div class="tokens" aria-label="What the model sees">{tokens}{more}{cut}</div>'


def _token(text: str, trained: bool, special: bool, ids: Sequence[int]) -> str:
    kinds = ["tok", *(["trained"] if trained else []), *(["special"] if special else [])]
    visible = escape(text).replace("\n", "↵\n").replace("\t", "⇥\t")
    return f'<span class="{" ".join(kinds)}" title="{" ".join(map(str, ids))}">{visible}</span>'
