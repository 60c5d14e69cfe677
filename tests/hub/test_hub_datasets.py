"""Data sets of the Hub, read by the real `datasets` and `huggingface_hub` from a small real Hub on this machine.

The clients read the Hub's address when they are imported, so one child process reads for all tests. Every test has data
sets of its own. The child must never show a token: all it says is searched for every one of them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from conftest import ROOT
from gemma_ft.data.hub_failures import explained
from gemma_ft.data.slices import parse_split
from gemma_ft.errors import DataError
from hub_server import HubServer

ANN, BOB, EVE, STALE = "hf_annsecret", "hf_bobsecret", "hf_evesecret", "hf_stalesecret"
CHILD = """
import json, sys
from dataclasses import asdict
from gemma_ft.config import DataConfig
from gemma_ft.data import hub_datasets
from gemma_ft.errors import GemmaFtError
from gemma_ft.hub.access import require_access

def read(split="train", token=None, sample_rows=None, **data):
    source = hub_datasets.open_hub(
        DataConfig(source="hub", **data), split, token=token, sample_rows=sample_rows
    )
    rows = list(source.read())
    assert repr(rows) == repr(list(source.read())), "the second reading gave other rows"
    told = {"name": source.name, "notes": source.notes, "total": source.total, "complete": source.complete}
    return {"rows": rows, **told}

def describe(**asked):
    return asdict(hub_datasets.describe_dataset(**asked))

def model(id, token):
    with require_access(id, token):
        return "allowed"

calls = {"read": read, "describe": describe, "splits": hub_datasets.splits_of, "model": model,
         "search": hub_datasets.search_datasets}
for line in sys.stdin:
    name, asked = json.loads(line)
    try:
        answer = {"value": calls[name](**asked)}
    except GemmaFtError as exc:
        answer = {"error": type(exc).__name__, "what": exc.report.what_happened, "fix": exc.report.what_to_do}
    print(json.dumps(answer, default=repr), flush=True)
"""


class Refused(Exception):
    """The child's `DataError` (or another of ours): what happened, what to do."""

    def __init__(self, kind: str, what: str, fix: str) -> None:
        super().__init__(f"{what} {fix}")
        self.kind, self.what, self.fix = kind, what, fix


@dataclass
class Reader:
    """The child, and the Hub it talks to."""

    hub: HubServer
    child: subprocess.Popen[str]
    errors: Path
    home: Path
    said: list[str] = field(default_factory=list)

    def ask(self, call: str, **asked: Any) -> Any:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps([call, asked]) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, f"the child died: {self.errors.read_text()}"
        self.said.append(line)
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"], answer["what"], answer["fix"])
        return answer["value"]

    def look(self, dataset_id: str, sample_rows: int = 1000, **asked: Any) -> Any:
        return self.ask("read", id=dataset_id, sample_rows=sample_rows, **asked)

    def whole(self, dataset_id: str, **asked: Any) -> Any:
        return self.ask("read", id=dataset_id, **asked)

    def refusal(self, dataset_id: str, **asked: Any) -> Refused:
        """Both ways of reading must refuse with the same words, as a `DataError`."""
        with pytest.raises(Refused) as looked:
            self.look(dataset_id, **asked)
        with pytest.raises(Refused) as read:
            self.whole(dataset_id, **asked)
        assert str(looked.value) == str(read.value)
        assert looked.value.kind == "DataError"
        return looked.value


def start_reader(hub: HubServer, folder: Path, **environment: str) -> Reader:
    for name in ("none", "twin"):  # folders that are named like data sets must not be taken for them
        (folder / "ann" / name).mkdir(parents=True)
        (folder / "ann" / name / "train.jsonl").write_text('{"a": "from the local folder"}\n')
    home, errors = folder / "home", folder / "errors.txt"
    own = {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **hub.environment(), **environment}
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own
    with errors.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env=env,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    return Reader(hub, child, errors, home)


def end_reader(reader: Reader) -> None:
    assert reader.child.stdin is not None
    reader.child.stdin.close()
    assert reader.child.wait(30) == 0
    shown = "".join(reader.said) + reader.errors.read_text()
    assert not [token for token in (ANN, BOB, EVE, STALE) if token in shown]
    assert "%|" not in shown
    assert "Generating train split" not in shown


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with HubServer() as hub:
        hub.add_user("ann", ANN)
        hub.add_user("bob", BOB)
        hub.add_user("eve", EVE)
        found = start_reader(hub, tmp_path_factory.mktemp("reader"))
        yield found
        end_reader(found)


@pytest.fixture
def hub(reader: Reader) -> HubServer:
    return reader.hub


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv(rows: list[dict[str, Any]]) -> bytes:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines).encode()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {n}?", "completion": "ä" * (n % 3), "n": n} for n in range(start, start + count)]


def card(text: str) -> bytes:
    return f"---\n{text}\n---\n# A data set\n".encode()


def two_splits(**sizes: int) -> dict[str, bytes]:
    """A data set of ten training and seven test rows; a card is there when it is to state the sizes."""
    files = {"train.jsonl": jsonl(numbered(10)), "test.jsonl": jsonl(numbered(7, 100))}
    if sizes:
        listed = "".join(f"\n  - name: {name}\n    num_examples: {size}" for name, size in sizes.items())
        files["README.md"] = card(f"dataset_info:\n  splits:{listed}")
    return files


@pytest.mark.parametrize("write", [jsonl, csv, parquet])
def test_a_look_and_the_whole_give_the_rows_of_the_file(reader: Reader, write: Any) -> None:
    rows = [row | {"completion": "x, y" if write is not csv else "xy"} for row in numbered(25)]
    name, kind = f"ann/as-{write.__name__}", write.__name__
    reader.hub.add_repo(name, {f"data/train.{kind}": write(rows)}, "dataset")
    looked, whole = reader.look(name), reader.whole(name)
    assert looked["rows"] == whole["rows"] == rows
    assert looked["total"] == whole["total"] == 25
    assert looked["complete"]
    assert whole["complete"]
    assert looked["name"] == f"{name}, train"


def test_a_look_ends_at_its_limit_and_does_not_ask_again(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/ten", two_splits(), "dataset")
    exact, short = reader.look("ann/ten", 10), reader.look("ann/ten", 9)
    assert (exact["rows"], exact["total"], exact["complete"]) == (numbered(10), 10, True)
    assert (short["rows"], short["total"], short["complete"]) == (numbered(9), None, False)
    hub.add_repo("ann/ten-stated", two_splits(train=10, test=7), "dataset")
    stated = reader.look("ann/ten-stated", 9)
    assert (stated["rows"], stated["total"], stated["complete"]) == (numbered(9), 10, False)


SPECS = [
    "test",
    "train[:3]",
    "train[2:5]",
    "train[7:]",
    "train[-2:]",
    "train[:-2]",
    "train[:30%]",
    "train[10%:55%]",
    "train[-20%:]",
    "train + test[:5]",
    "train[:2]+train[:2]+test[50%:]",
    "train[4:1_000]",
    "train[50:]",
    "test[:0%]",
]


@pytest.mark.parametrize("stated", [True, False])
def test_slices_are_the_same_streamed_and_downloaded(reader: Reader, stated: bool) -> None:
    from datasets import ReadInstruction

    name = f"ann/sliced-{stated}"
    reader.hub.add_repo(name, two_splits(**({"train": 10, "test": 7} if stated else {})), "dataset")
    splits = {"train": numbered(10), "test": numbered(7, 100)}
    for spec in SPECS:
        spans = ReadInstruction.from_spec(spec).to_absolute({key: len(value) for key, value in splits.items()})
        expected = [row for span in spans for row in splits[span.splitname][span.from_ : span.to]]
        looked, whole = reader.look(name, split=spec), reader.whole(name, split=spec)
        assert looked["rows"] == whole["rows"] == expected, spec
        assert looked["total"] == whole["total"] == len(expected), spec
        assert looked["complete"], spec
        assert (looked["notes"], whole["notes"]) == ([], []), spec


@pytest.mark.parametrize("spec", ["train[50%:]", "train[-3:]"])
def test_a_share_of_an_unknown_number_of_rows_is_shown_as_the_first_rows(reader: Reader, spec: str) -> None:
    name = f"ann/unknown-{len(spec)}"
    reader.hub.add_repo(name, two_splits(), "dataset")
    looked = reader.look(name, 4, split=spec)
    assert (looked["rows"], looked["complete"], looked["total"]) == (numbered(4), False, None)
    assert spec in looked["notes"][0]
    assert "first rows of train" in looked["notes"][0]


def test_a_look_does_not_wade_through_many_rows(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/long", {"train.csv": b"n\n" + b"".join(b"%d\n" % n for n in range(30_000))}, "dataset")
    far = reader.look("ann/long", 5, split="train[25_000:]")
    assert [row["n"] for row in far["rows"]] == [0, 1, 2, 3, 4]
    assert "too far" in far["notes"][0]
    assert [row["n"] for row in reader.look("ann/long", 5, split="train[9000:]")["rows"]] == list(range(9000, 9005))
    assert reader.whole("ann/long", split="train[25_000:]")["rows"][0] == {"n": 25_000}


@pytest.mark.parametrize(
    "spec",
    [
        "train[",
        "train[:10%",
        "train[a:b]",
        "train[10:20%]",
        "train[:101%]",
        "train[5:2]",
        "+",
        "train;test",
        "train[3]",
    ],
)
def test_a_split_that_cannot_be_understood_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match=r"Write it as `train`, `train\[:1000\]`"):
        parse_split(spec)


CONFIGS = """configs:
- config_name: en
  data_files:
  - split: train
    path: en/*.jsonl
- config_name: german
  data_files:
  - split: train
    path: de/*.jsonl
  - split: validation
    path: dev/*.jsonl"""


def test_of_several_configurations_one_must_be_named(reader: Reader, hub: HubServer) -> None:
    files = {"en/a.jsonl": jsonl([{"t": "one"}]), "de/a.jsonl": jsonl([{"t": "eins"}])}
    files["dev/a.jsonl"] = jsonl([{"t": "zwei"}])
    hub.add_repo("ann/languages", {"README.md": card(CONFIGS), **files}, "dataset")
    refused = reader.refusal("ann/languages")
    assert "2 configurations" in refused.what
    assert "'en', 'german'" in refused.fix
    assert "Did you mean 'german'?" in reader.refusal("ann/languages", config="germna").fix
    assert "'en', 'german'" in reader.refusal("ann/languages", config="zz").fix
    for read in (reader.look, reader.whole):
        assert read("ann/languages", config="german")["rows"] == [{"t": "eins"}]
        assert read("ann/languages", config="german", split="validation")["rows"] == [{"t": "zwei"}]
        assert read("ann/languages", config="en")["rows"] == [{"t": "one"}]
    assert "validation" in reader.refusal("ann/languages", config="german", split="validaton").fix
    asked = {"revision": None, "token": None}
    described = reader.ask("describe", dataset_id="ann/languages", **asked)
    expected = {"id": "ann/languages", "gated": False, "configs": ["en", "german"], "default_config": None}
    assert described == expected
    assert reader.ask("splits", dataset_id="ann/languages", config="german", **asked) == ["train", "validation"]

    marked = CONFIGS.replace("config_name: german", "config_name: german\n  default: true")
    hub.add_repo("ann/marked", {"README.md": card(marked), **files}, "dataset")
    assert "default is german" in reader.refusal("ann/marked").fix
    assert reader.ask("describe", dataset_id="ann/marked", **asked)["default_config"] == "german"


def test_a_configuration_that_no_card_declares_is_unknown(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/undeclared", two_splits(), "dataset")
    assert "no configuration 'fr'" in reader.refusal("ann/undeclared", config="fr").what
    assert reader.look("ann/undeclared", config="default")["rows"] == numbered(10)


def test_what_is_unknown_is_named_with_its_nearest(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/european-capitals", two_splits(), "dataset", downloads=7)
    hub.add_repo("bob/other", two_splits(), "dataset")
    hub.add_repo("bob/capitals-hidden", two_splits(), "dataset", private=True)
    for wrong in ("ann/european-capitols", "bob/european-capitals", "european-capitals", "anne/europan-capitals"):
        refused = reader.refusal(wrong)
        assert f"no data set {wrong}" in refused.what
        assert "ann/european-capitals" in refused.fix
        assert "hidden" not in refused.fix
    assert "Check the spelling" in reader.refusal("ann/zzzzqqqq").fix
    split = reader.refusal("ann/european-capitals", split="tran[:5]")
    assert (split.what, split.fix) == ("ann/european-capitals has no split 'tran'.", "Did you mean 'train'?")
    assert "'train', 'test'" in reader.refusal("ann/european-capitals", split="train+nonsense").fix


@pytest.mark.parametrize(
    "strange", ["a/b/c", "../x", "", "https://huggingface.co/datasets/a/b", "a b", "json", "ann/none"]
)
def test_an_id_never_means_a_folder_or_a_format_here(reader: Reader, strange: str) -> None:
    if strange:
        refused = reader.refusal(strange)
        assert "no data set" in refused.what
    else:
        with pytest.raises(Refused, match="no data set"):
            reader.ask("describe", dataset_id="", revision=None, token=None)


def test_the_data_set_is_read_and_not_a_folder_of_that_name(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/twin", two_splits(), "dataset")
    assert reader.look("ann/twin")["rows"] == reader.whole("ann/twin")["rows"] == numbered(10)


def test_a_data_set_that_was_renamed_is_found(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/now-here", two_splits(), "dataset")
    hub.move("csv", "ann/now-here", "dataset")
    assert reader.look("csv")["rows"] == reader.whole("csv")["rows"] == numbered(10)
    assert reader.look("csv")["name"] == "ann/now-here, train"


def test_a_private_data_set_needs_its_owner(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/private", two_splits(), "dataset", private=True)
    assert reader.whole("ann/private", token=ANN)["rows"] == numbered(10)
    assert reader.look("ann/private", token=ANN)["rows"] == numbered(10)
    for token in (None, BOB):
        assert "or it is private" in reader.refusal("ann/private", token=token).what
    assert "Invalid credentials" in reader.refusal("ann/private", token=STALE).what


def test_a_gated_data_set_wants_a_grant_also_for_the_cached_copy(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/gated", two_splits(), "dataset", gated="manual")
    hub.grant("ann/gated", "bob", "dataset")
    assert reader.whole("ann/gated", token=BOB)["rows"] == numbered(10)
    assert reader.look("ann/gated", token=BOB)["rows"] == numbered(10)
    for token in (None, EVE):
        refused = reader.refusal("ann/gated", token=token)
        assert "gated" in refused.what
        assert "https://huggingface.co/datasets/ann/gated" in refused.fix
        assert "licence" in refused.fix
    assert "Invalid credentials" in reader.refusal("ann/gated", token=STALE).what
    asked = {"dataset_id": "ann/gated", "revision": None}
    assert reader.ask("describe", **asked, token=BOB)["gated"] == "manual"
    with pytest.raises(Refused, match="gated"):
        reader.ask("describe", **asked, token=EVE)
    with pytest.raises(Refused, match="gated"):
        reader.ask("splits", **asked, config=None, token=EVE)


@pytest.mark.parametrize("token", ["", "hf_a b", "hf_evesecret\n", "hf_ä"])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(reader: Reader, hub: HubServer, token: str) -> None:
    before = len(hub.requests)
    assert "token" in reader.refusal("ann/none", token=token).what
    with pytest.raises(Refused, match="token"):
        reader.ask("search", text="a", token=token)
    with pytest.raises(Refused, match="token") as refused:
        reader.ask("model", id="ann/none", token=token)
    assert refused.value.kind == "ModelError"
    assert len(hub.requests) == before


def test_a_look_at_a_big_file_fetches_only_its_beginning(reader: Reader, hub: HubServer) -> None:
    noise = random.Random(1)
    rows = [{"n": n, "text": noise.randbytes(1000).hex()} for n in range(20_000)]
    packed = parquet(rows, compression=None, row_group_size=500)
    hub.add_repo("ann/big-parquet", {"train.parquet": packed}, "dataset")
    hub.add_repo("ann/big-jsonl", {"train.jsonl": jsonl(rows) * 2}, "dataset")
    for name, most in (("ann/big-parquet", 12), ("ann/big-jsonl", 35)):
        before = hub.sent
        looked = reader.look(name, 100)
        assert looked["rows"] == rows[:100]
        assert not looked["complete"]
        assert hub.sent - before < most * 1_000_000
        stored = sum(path.stat().st_size for path in reader.home.rglob("*") if "big" in str(path) and path.is_file())
        assert stored < 1_000_000
    assert len(packed) > 40_000_000


def test_a_data_set_with_a_program_is_not_run(reader: Reader, hub: HubServer) -> None:
    script = b"raise SystemExit('ran')\n"
    hub.add_repo("ann/scripted", {"scripted.py": script}, "dataset")
    hub.add_repo("ann/both", {"both.py": script, **two_splits()}, "dataset")
    for name in ("ann/scripted", "ann/both"):
        refused = reader.refusal(name)
        assert "program" in refused.what
        assert "refs/convert/parquet" in refused.fix


@pytest.mark.parametrize("files", [{}, {"README.md": b"# Soon\n"}, {"weights.bin": b"\0\1"}])
def test_a_data_set_without_data_says_so(reader: Reader, hub: HubServer, files: dict[str, bytes]) -> None:
    name = f"ann/no-data-{''.join(files)[:3]}0"
    hub.add_repo(name, files, "dataset")
    assert "holds no data files" in reader.refusal(name).what


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("train.parquet", parquet(numbered(50))[:-30], "Parquet"),
        ("train.parquet", b"not at all", "Parquet"),
        ("train.jsonl", b'{"a": 1}\n{"a": \n', "JSON"),
        ("train.csv", b"a,b\n1,2\n1,2,3,4\n", "Expected 2 fields in line 3, saw 4"),
        ("train.jsonl.gz", b"\x1f\x8b\x08\x00garbage", ""),
        ("README.md", b"---\nconfigs: {a: [\n---\n", ""),
        ("README.md", b"---\nconfigs: 5\n---\n", ""),
    ],
)
def test_a_file_that_cannot_be_parsed_gives_its_reason_in_a_line(
    reader: Reader, hub: HubServer, file: str, content: bytes, reason: str
) -> None:
    name = f"ann/broken-{len(content)}-{file.lower().replace('.', '-')}"
    hub.add_repo(name, {**two_splits(), file: content} if file == "README.md" else {file: content}, "dataset")
    for read in (reader.look, reader.whole):
        with pytest.raises(Refused) as refused:
            read(name)
        assert refused.value.kind == "DataError"
        assert name in refused.value.what
        assert reason in refused.value.what
        assert "\n" not in refused.value.what
        assert len(refused.value.what) < 400


def test_columns_that_only_some_files_have_are_named(reader: Reader, hub: HubServer) -> None:
    files = {"data/train-1.jsonl": jsonl([{"a": 1}]), "data/train-2.jsonl": jsonl([{"a": 1, "b": 2}])}
    hub.add_repo("ann/uneven", files, "dataset")
    refused = reader.refusal("ann/uneven")
    assert "same columns" in refused.what
    assert "{'b'}" in refused.what


def test_a_card_with_old_numbers_is_told_and_not_believed(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/old-card", two_splits(train=5, test=9, gone=3), "dataset")
    whole = reader.whole("ann/old-card")
    assert (whole["rows"], whole["total"]) == (numbered(10), 10)
    assert whole["notes"] == ["The card of ann/old-card says that train has 5 rows; it has 10."]
    looked = reader.look("ann/old-card")
    assert (looked["rows"], looked["total"], looked["complete"]) == (numbered(10), 10, True)
    assert "'train', 'test'" in reader.refusal("ann/old-card", split="gone").fix


def test_the_revision_is_honoured(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/versions", {"train.jsonl": jsonl(numbered(2))}, "dataset")
    api = HfApi(endpoint=hub.endpoint, token=ANN)
    first = api.dataset_info("ann/versions").sha
    new = jsonl(numbered(3, 50))
    api.upload_file(path_or_fileobj=new, path_in_repo="train.jsonl", repo_id="ann/versions", repo_type="dataset")
    for read in (reader.look, reader.whole):
        assert read("ann/versions")["rows"] == numbered(3, 50)
        assert read("ann/versions", revision=first)["rows"] == numbered(2)
    refused = reader.refusal("ann/versions", revision="v9")
    assert "no such revision" in refused.what
    assert "data.revision" in refused.fix

    api.delete_file("train.jsonl", "ann/versions", repo_type="dataset")
    assert "holds no data files" in reader.refusal("ann/versions").what, "an older version came from the cache"
    assert reader.whole("ann/versions", revision=first)["rows"] == numbered(2)


def test_the_search_gives_the_most_downloaded_first(reader: Reader, hub: HubServer) -> None:
    for owner, downloads in (("ann", 5), ("bob", 50), ("eve", 20)):
        hub.add_repo(f"{owner}/Weather-rows", {}, "dataset", downloads=downloads)
    hub.add_repo("ann/weather-secret", {}, "dataset", private=True)
    assert reader.ask("search", text=" weather ", token=None) == [
        "bob/Weather-rows",
        "eve/Weather-rows",
        "ann/Weather-rows",
    ]
    assert reader.ask("search", text="weather", token=None, limit=1) == ["bob/Weather-rows"]
    assert "ann/weather-secret" in reader.ask("search", text="weather", token=ANN)
    assert reader.ask("search", text="nothing-of-the-kind", token=None) == []
    with pytest.raises(Refused, match="Invalid credentials"):
        reader.ask("search", text="weather", token=STALE)


MEDIA = """dataset_info:
  features:
  - name: text
    dtype: string
  - name: image
    dtype: image
  - name: sound
    dtype: audio
  - name: more
    list: image"""


def test_pictures_and_sounds_stay_as_they_are_stored(reader: Reader, hub: HubServer) -> None:
    """What is stored here is no picture at all: decoding it would fail."""
    stored = {"bytes": b"no picture", "path": "a.png"}
    rows = [{"text": "see", "image": stored, "sound": stored, "more": [stored, stored]}]
    hub.add_repo("ann/media", {"README.md": card(MEDIA), "train.parquet": parquet(rows)}, "dataset")
    looked, whole = reader.look("ann/media"), reader.whole("ann/media")
    assert looked["rows"] == whole["rows"]
    (row,) = looked["rows"]
    told = {"bytes": repr(b"no picture"), "path": "a.png"}
    assert (row["text"], row["image"], row["sound"], row["more"]) == ("see", told, told, [told, told])


def test_a_folder_of_pictures_is_read_without_looking_at_them(reader: Reader, hub: HubServer) -> None:
    files = {"train/cat/1.png": b"no picture", "train/dog/2.png": b"none either"}
    hub.add_repo("ann/pictures", files, "dataset")
    for read in (reader.look, reader.whole):
        rows = read("ann/pictures")["rows"]
        assert [row["label"] for row in rows] == [0, 1]
        assert rows[0]["image"]["path"].endswith("1.png")


def test_values_of_any_shape_stay_what_they_were(reader: Reader, hub: HubServer) -> None:
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": ["y", 2]}]
    rows = [{"messages": [{"role": "user", "calls": [call]}], "n": None} for call in calls]
    hub.add_repo("ann/mixed", {"train.jsonl": jsonl(rows)}, "dataset")
    assert reader.look("ann/mixed")["rows"] == reader.whole("ann/mixed")["rows"] == rows
    odd = [{"when": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.50"), "raw": b"\xff", "nothing": None}]
    hub.add_repo("ann/odd", {"train.parquet": parquet(odd)}, "dataset")
    (row,) = reader.look("ann/odd")["rows"]
    assert [row] == reader.whole("ann/odd")["rows"]
    assert (row["price"], row["raw"], row["nothing"]) == (repr(Decimal("1.50")), repr(b"\xff"), None)
    assert row["when"].startswith("datetime.datetime(2026, 1, 2")


def test_a_hub_that_fails_is_an_error_with_a_remedy(reader: Reader, hub: HubServer) -> None:
    hub.add_repo("ann/unlucky", two_splits(), "dataset")
    hub.fail_next("/api/datasets/ann/unlucky", 501, times=2)
    refused = reader.refusal("ann/unlucky")
    assert "501" in refused.what
    assert "Try again" in refused.fix
    hub.fail_next("/datasets/ann/unlucky/resolve", 501, times=200)
    for read in (reader.look, reader.whole):
        with pytest.raises(Refused, match="ann/unlucky"):
            read("ann/unlucky")


def test_without_a_network_everything_says_so(tmp_path: Path) -> None:
    with HubServer() as gone:
        pass
    reader = start_reader(gone, tmp_path)
    refused = reader.refusal("ann/any", token=ANN)
    assert "could not be reached" in refused.what
    assert "network" in refused.fix
    with pytest.raises(Refused, match="could not be reached"):
        reader.ask("search", text="any", token=ANN)
    end_reader(reader)


def test_a_full_disk_stays_a_full_disk() -> None:
    from datasets.exceptions import DatasetGenerationError

    def fill() -> None:
        try:
            Path("/dev/full").write_bytes(b"x")
        except OSError as exc:
            raise DatasetGenerationError("An error occurred") from exc

    with pytest.raises(OSError, match="No space left") as found, explained("ann/any", None):
        fill()
    assert found.value.errno == errno.ENOSPC


def test_a_token_in_a_librarys_message_is_not_passed_on() -> None:
    with pytest.raises(DataError) as found, explained("ann/any", ANN):
        raise ValueError(f"bad header Bearer {ANN}")
    assert ANN not in str(found.value)
