"""The Data step of Create: where rows come from, which column is what, what is wrong, and the X-ray.

Promises that a change of any input is looked at as a whole, by a process of its own, and that the page shows what was
found, never what was guessed here. Keeps no state but what the inputs hold.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from gemma_ft.config import parse_config
from gemma_ft.data.columns import SHAPES
from gemma_ft.data.files import FILE_ENDINGS
from gemma_ft.data.sources import EXAMPLES
from gemma_ft.errors import ConfigError, GemmaFtError
from gemma_ft.ui.form import Form
from gemma_ft.ui.present import escape, problems_markdown, rows_of
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED, QUIET, shows_errors
from gemma_ft.ui.xray_view import figures_html, lengths_html, raw_html, rows_html, summary

PAGE_ROWS = 5
MOST_PARTS = 5
NO_COLUMN = "(none)"
WAITING = '<p class="about">The X-ray appears here when the data can be used.</p>'
ASK_FOR = {
    "example": "Choose an example.",
    "file": "Upload a file: .jsonl, .json, .csv, .tsv, .parquet or .txt, also gzipped.",
    "hub": "Type the name of a data set, as owner/name; or type a word and press Search the Hub.",
    "tfds": "Type the name of a data set, or the folder of one that was prepared.",
}


class DataStep:
    """The step's components, laid out when this is made inside the step."""

    def __init__(self, form: Form, services: Services) -> None:
        self.form = form
        form["data.source"].render()
        with gr.Row(elem_classes="bottom-row"):
            form["data.id"].render()
            form["data.config"].render()
            self.search = gr.Button("Search the Hub", visible=False, elem_id="search-button", scale=0, min_width=160)
        with gr.Row(visible=False) as self.splits:
            form["data.split"].render()
            form["data.validation_split"].render()
            form["data.revision"].render()
        with gr.Row(visible=False) as self.files:
            self.upload = _upload("Your file", "data-upload")
            self.measured = _upload("A second file to measure with (optional)", "validation-upload")
        with gr.Row(visible=False) as self.paths:
            form["data.path"].render()
            form["data.validation_path"].render()
        with gr.Accordion("Which column is what", open=False, elem_id="columns"):
            form["data.format"].render()
            with gr.Row():
                self.parts = [
                    gr.Dropdown([], label="", visible=False, allow_custom_value=True, elem_id=f"part-{place}")
                    for place in range(MOST_PARTS)
                ]
            form["data.columns"].render()
            self.names = gr.State([])
        form["data.validation_fraction"].render()
        with gr.Accordion("More", open=False), gr.Row():
            for name in ("max_rows", "seed", "shuffle"):
                form[f"data.{name}"].render()
        self.verdict = gr.Markdown(elem_id="data-verdict")
        form["data.drop_bad_rows"].visible = False
        form["data.drop_bad_rows"].render()
        gr.Markdown("#### X-ray: what will be trained")
        self.figures = gr.HTML(WAITING, elem_id="xray-figures")
        with gr.Row(elem_classes="button-row"):
            self.suggested = gr.Button(visible=False, elem_id="suggested-length")
            self.back = gr.Button("Earlier rows", visible=False, elem_id="xray-back")
            self.forth = gr.Button("More rows", visible=False, elem_id="xray-forth")
        self.rows = gr.HTML(elem_id="xray-rows")
        self.first = gr.State(0)
        self.allow_paths = not services.settings.on_space

    @property
    def looked(self) -> list[Any]:
        """What a look at the data fills in."""
        return [self.verdict, self.form["data.drop_bad_rows"], *self.parts, self.names, self.rows]

    @property
    def xrayed(self) -> list[Any]:
        """What an X-ray fills in."""
        return [self.figures, self.rows, self.suggested, self.back, self.forth, self.first]


def wire_data_step(step: DataStep, services: Services, steps: gr.Walkthrough, token: gr.Textbox) -> None:
    """Tie the inputs of the step to what looks at the data."""
    form = step.form
    held = [token, *form.components]

    @shows_errors
    def look(token_typed: str, *values: Any) -> Iterator[list[Any]]:
        yield from look_at_data(services, form.values(values), token_typed)

    @shows_errors
    def xray(first: int, token_typed: str, *values: Any) -> list[Any]:
        return take_xray(services, form.values(values), first, token_typed)

    def turn(by: int) -> Any:
        return shows_errors(lambda first, *values: xray(max(0, first + by), *values))

    @shows_errors
    def suggested(token_typed: str, *values: Any) -> int:
        admitted, token = services.admitted(form.values(values)), services.token(token_typed)
        return int(services.inspector.xray(admitted, hub_token=token)["figures"]["suggested_max_length"])

    @shows_errors
    def keep(temporary: str | None) -> str:
        return str(services.keep_upload(Path(temporary))) if temporary else ""

    inputs = {path: component for path, component in form.inputs.items() if path.startswith("data.")}
    watched = [*inputs.values(), form["model.id"], form["method.objective"], form["training.max_length"]]
    changes = [steps.change, *(component.change for component in watched)]
    looking = gr.on(changes, look, held, step.looked, trigger_mode="always_last", **QUEUED)
    looking.then(lambda *values: xray(0, *values), held, step.xrayed, **QUIET)
    step.forth.click(turn(PAGE_ROWS), [step.first, *held], step.xrayed, **QUIET)
    step.back.click(turn(-PAGE_ROWS), [step.first, *held], step.xrayed, **QUIET)
    step.suggested.click(suggested, held, form["training.max_length"], **QUIET)
    step.upload.change(keep, step.upload, form["data.path"], **QUIET)
    step.measured.change(keep, step.measured, form["data.validation_path"], **QUIET)
    _wire_source(step, services, token)
    _wire_columns(step)


def _upload(label: str, elem_id: str) -> gr.File:
    return gr.File(label=label, file_types=list(FILE_ENDINGS), height=140, elem_id=elem_id)


def _name_input(source: str) -> Any:
    """Return what the input for a data set's name shows for a source."""
    if source == "example":
        choices = [(name.capitalize(), name) for name in EXAMPLES]
        return gr.update(visible=True, label="Example", choices=choices)
    label = {"hub": "Data set on the Hub (owner/name, or a word to search)", "tfds": "Name in TensorFlow Datasets"}
    return gr.update(visible=source != "file", label=label.get(source, ""), choices=[])


def _wire_source(step: DataStep, services: Services, token: gr.Textbox) -> None:
    """Show the inputs of the chosen source, and offer what the Hub has."""
    form = step.form
    source, name = form["data.source"], form["data.id"]

    def switch(chosen: str) -> list[Any]:
        return [
            _name_input(chosen),
            gr.update(visible=chosen in ("hub", "tfds")),
            gr.update(visible=chosen in ("hub", "tfds")),
            gr.update(visible=chosen == "hub"),
            gr.update(visible=chosen == "file"),
            gr.update(visible=step.allow_paths and chosen in ("file", "tfds")),
            gr.update(visible=chosen == "file"),
        ]

    def start_anew(chosen: str) -> list[Any]:
        """Empty what went with another source: what is hidden must not count."""
        return [next(iter(EXAMPLES)) if chosen == "example" else None, None, "train", None, "", "", "", None, None]

    @shows_errors
    def search(typed: str | None, token_typed: str) -> Any:
        found = services.inspector.search(typed or "", services.token(token_typed))
        if not found:
            gr.Info(f"The Hub has no data set whose name holds {typed!r}.", title="Nothing found")
            return gr.skip()
        gr.Info("Open the list to choose.", title=f"Data sets found: {len(found)}")
        return gr.update(choices=found)

    def offer(chosen: str, typed: str | None, config: str | None, token_typed: str) -> list[Any]:
        """Offer the configurations and splits of a data set; what cannot be found is said by the look."""
        if chosen not in ("hub", "tfds") or not typed:
            return [gr.skip()] * 3
        try:
            found = services.inspector.offers(chosen, typed, config or None, services.token(token_typed))
        except GemmaFtError:
            return [gr.skip()] * 3
        splits = gr.update(choices=found["splits"])
        if chosen == "tfds":
            return [gr.skip(), splits, splits]
        meant = found["config"] if len(found["configs"]) > 1 else None
        return [gr.update(choices=found["configs"], value=meant), splits, splits]

    hidden = [name, form["data.config"], step.splits, step.search, step.files, step.paths, form["data.validation_path"]]
    source.change(switch, source, hidden, **QUIET)
    emptied = ("id", "config", "split", "validation_split", "revision", "path", "validation_path")
    source.input(start_anew, source, [*(form[f"data.{part}"] for part in emptied), step.upload, step.measured], **QUIET)
    step.search.click(search, [name, token], name, **QUEUED)
    offered = [form["data.config"], form["data.split"], form["data.validation_split"]]
    name.change(offer, [source, name, form["data.config"], token], offered, **QUIET)


def _wire_columns(step: DataStep) -> None:
    """Write what is chosen for the parts of a row into the mapping; another source or format starts anew."""
    form = step.form

    def choose(names: list[str], *chosen: str | None) -> str:
        pairs = zip(names, chosen, strict=False)
        return json.dumps({part: "" if column == NO_COLUMN else column for part, column in pairs if column})

    for part in step.parts:
        part.input(choose, [step.names, *step.parts], form["data.columns"], **QUIET)
    for name in ("source", "id", "config", "path", "format"):
        form[f"data.{name}"].input(lambda: "", None, form["data.columns"], **QUIET)
    step.upload.upload(lambda: "", None, form["data.columns"], **QUIET)


def look_at_data(services: Services, values: dict[str, Any], token_typed: str | None) -> Iterator[list[Any]]:
    """Yield what the page shows of a config's data, in the order of `DataStep.looked`; progress first."""
    nothing = [gr.update(visible=False), *(gr.update(visible=False) for _ in range(MOST_PARTS)), [], ""]
    data = values["data"]
    if not (data["path"] if data["source"] == "file" else data["id"] or data["path"]):
        yield [f"**{ASK_FOR[data['source']]}**", *nothing]
        return
    yield ["Looking at the data …", *(gr.skip() for _ in nothing)]
    try:
        for answer in services.inspector.looking(services.admitted(values), services.token(token_typed)):
            if answer["event"] == "progress":
                yield [f"Reading … {answer['rows']:,} rows so far.", *(gr.skip() for _ in nothing)]
            else:
                yield _looked(answer["report"], answer["raw"], data)
    except GemmaFtError as exc:
        what = escape(exc.report.what_happened).replace("\n", "<br>")
        yield [f"✗ Not complete yet. {what} **{escape(exc.report.what_to_do)}**", *nothing]


def _looked(report: Mapping[str, Any], raw: Sequence[Mapping[str, str]], asked: Mapping[str, Any]) -> list[Any]:
    data, drops = report["data"], bool(asked["drop_bad_rows"])
    about_data = [problem for problem in report["problems"] if problem["kind"] not in ("token", "model")]
    if not data:
        problem = about_data[0]
        what = escape(problem["message"]).replace("\n", "<br>")
        cannot = "✗ This data cannot be used. " if problem["severity"] == "error" else ""
        told = f"{cannot}{what} **{escape(problem['fix'])}**"
        wanted = asked["format"] if asked["format"] != "auto" else "prompt_completion"
        mapping = {part: column for part, column in asked["columns"].items() if column in report["columns"]}
        names, parts = mapping_inputs({"format": wanted, "columns": report["columns"], "mapping": mapping})
        if not report["columns"]:
            names, parts = [], [gr.update(visible=False)] * MOST_PARTS
        return [told, gr.update(visible=drops), *parts, names, ""]
    names, parts = mapping_inputs(data)
    bad = data["dropped"]
    label = f"Leave out {f'the {rows_of(bad)}' if bad else 'rows'} that cannot be used"
    choice = gr.update(visible=bad > 0 or drops or not data["complete"], label=label)
    return [verdict(report), choice, *parts, names, raw_html(raw)]


def verdict(report: Mapping[str, Any]) -> str:
    """Return what was found in the data, in Markdown."""
    data = report["data"]
    usable = not any(p["severity"] == "error" for p in report["problems"] if p["kind"] not in ("token", "model"))
    looked = rows_of(data["rows"]) if data["complete"] else f"The first {rows_of(data['looked_at'])}"
    of = f" of {data['total']:,}" if data["total"] and not data["complete"] else ""
    about = "" if data["complete"] else "about "
    train, held_out = data["expected"]
    left_out = f", **{data['dropped']:,} cannot be used**" if data["dropped"] else ""
    kind = escape(data["format"].replace("_", " and "))
    renamed = [(part, column) for part, column in data["mapping"].items() if part != column]
    mapped = " (" + ", ".join(f"{escape(part)} = {escape(column)}" for part, column in renamed) + ")" if renamed else ""
    lines = [
        f"{'✓' if usable else '✗'} {looked}{of} with {kind}{mapped}: "
        f"{about}{train:,} to train on, {held_out:,} held out{left_out}.",
        *(escape(note) for note in data["notes"]),
    ]
    if not data["complete"]:
        lines.append("The other rows are read and checked when the run starts.")
    kinds = ", ".join(f"{number:,} {escape(kind.replace('_', ' '))}" for kind, number in data["counts"].items())
    if kinds:
        lines.append(f"Found: {kinds}.")
    rows = [problem for problem in report["problems"] if problem["row"]]
    return "\n\n".join([*lines, problems_markdown(rows)])


def mapping_inputs(data: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Return the parts of a row in the format that was found, and for each an input with its column."""
    shape = SHAPES[data["format"]]
    names = [*shape.required, *shape.optional][:MOST_PARTS]
    columns = [*data["columns"], *(column for column in data["mapping"].values() if column not in data["columns"])]
    parts = []
    for part in names:
        choices = columns if part in shape.required else [NO_COLUMN, *columns]
        value = data["mapping"].get(part, None if part in shape.required else NO_COLUMN)
        parts.append(gr.update(visible=True, label=part.capitalize(), choices=choices, value=value))
    return names, [*parts, *(gr.update(visible=False) for _ in range(MOST_PARTS - len(names)))]


def take_xray(services: Services, values: dict[str, Any], first: int, token_typed: str | None) -> list[Any]:
    """Return what the page shows of the X-ray of a config's data, in the order of `DataStep.xrayed`."""
    hidden = gr.update(visible=False)
    try:
        config = services.admitted(values)
        taken = services.inspector.xray(config, first, PAGE_ROWS, services.token(token_typed))
    except ConfigError:
        return [WAITING, gr.skip(), hidden, hidden, hidden, 0]
    except GemmaFtError as exc:
        why = html.escape(f"{exc.report.what_happened} {exc.report.what_to_do}").replace("\n", "<br>")
        return [f'<p class="about">No X-ray: {why}</p>', gr.skip(), hidden, hidden, hidden, 0]
    figures, rows = taken["figures"], taken["rows"]
    limit = parse_config(values).training.max_length
    suggested = figures["suggested_max_length"]
    suggestion = gr.update(visible=suggested != limit, value=f"Use a maximum length of {suggested:,} tokens")
    told = f"<p>{summary(figures)}</p>{figures_html(figures)}{lengths_html(figures)}"
    more = first + len(rows) < taken["pages_rows"]
    return [told, rows_html(rows, first), suggestion, gr.update(visible=first > 0), gr.update(visible=more), first]
