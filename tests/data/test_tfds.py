"""Data sets of TensorFlow Datasets, prepared by its own tools and read back without TensorFlow."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gemma_ft.config import DataConfig
from gemma_ft.data.source import Source
from gemma_ft.data.tfds import open_tfds, split_names
from gemma_ft.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SIZES = {"train": 40, "test": 7}


def stored(number: int, mark: str = "") -> dict[str, Any]:
    """A row as the builder is given it."""
    turns = [{"role": "user", "content": f"m{number}{mark}"}, {"role": "assistant", "content": "ü\u2028"}]
    return {
        "question": f"What is {number}? é漢",
        "answer": b"\xff\xfe" if number == 3 else f"It is {number}.",
        "number": number,
        "share": number / 2,
        "flag": number % 2 == 0,
        "label": "yes",
        "translation": {"en": f"hello {number}", "de": f"hallo {number}"},
        "variable": {"en": ["a", "b"], "fr": "c"},
        "nested": {"inner": {"text": "x", "count": number}},
        "messages": turns[: number % 3],
        "tags": ["p", "q"][: number % 3],
        "records": [{"where": {"page": n, "line": f"l{n}"}} for n in range(number % 3)],
        "matrix": [[1.5, 2.0], [3.0, number]],
        "empty": "",
        "maybe": None if number % 2 else "there",
        "dataset": [{"z": f"z{number}"}] * 2,
    }


def plain(number: int, mark: str = "") -> dict[str, Any]:
    """The same row as it must come back."""
    row = stored(number, mark)
    row["label"] = 1
    row["variable"] = [
        {"language": name, "translation": text} for name, text in (("en", "a"), ("en", "b"), ("fr", "c"))
    ]
    return row


@functools.cache
def builders() -> dict[str, Any]:
    """Data sets of our own, written as TFDS wants them; `tfds` knows them by name from then on."""
    import numpy as np
    import tensorflow_datasets as tfds

    f = tfds.features
    text = f.Text()

    class Small(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        FEATURES: ClassVar[dict[str, Any]] = {"text": text}

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(self.FEATURES))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(size) for split, size in SIZES.items()}

        def _generate_examples(self, size: int) -> Iterator[tuple[int, Any]]:
            yield from ((number, {"text": f"t{number}"}) for number in range(size))

    class GftRich(Small):
        BUILDER_CONFIGS: ClassVar[list[Any]] = [tfds.core.BuilderConfig(name=name) for name in ("main", "other")]
        FEATURES: ClassVar[dict[str, Any]] = {
            "question": text,
            "answer": text,
            "empty": text,
            "maybe": f.Scalar(dtype=np.str_, optional=True),
            "number": np.int64,
            "share": np.float32,
            "flag": np.bool_,
            "label": f.ClassLabel(names=["no", "yes"]),
            "translation": f.Translation(["en", "de"]),
            "variable": f.TranslationVariableLanguages(),
            "nested": {"inner": {"text": text, "count": np.int32}},
            "messages": f.Sequence({"role": text, "content": text}),
            "tags": f.Sequence(text),
            "records": f.Sequence({"where": {"page": np.int64, "line": text}}),
            "matrix": f.Tensor(shape=(2, 2), dtype=np.float32),
            "dataset": f.Dataset({"z": text}),
        }

        def _generate_examples(self, size: int) -> Iterator[tuple[int, Any]]:
            yield from ((number, stored(number, self.builder_config.name[0])) for number in range(size))

    class GftPictures(Small):
        FEATURES: ClassVar[dict[str, Any]] = {"one": f.Image(), "many": f.Sequence(f.Image()), "text": text}

        def _generate_examples(self, size: int) -> Iterator[tuple[int, Any]]:
            for number in range(size):
                picture = functools.partial(io.BytesIO, PICTURE)
                yield number, {"one": picture(), "many": [picture(), picture()], "text": "t"}

    class GftFetched(Small):
        ADDRESS = ""

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(dl_manager.download(self.ADDRESS))}

        def _generate_examples(self, path: Any) -> Iterator[tuple[int, Any]]:
            yield from ((n, {"text": line}) for n, line in enumerate(Path(path).read_text().splitlines()))

    class GftBroken(Small):
        FAILURE: BaseException = TypeError("the source\nhas changed")

        def _generate_examples(self, size: int) -> Iterator[tuple[int, Any]]:
            yield 0, {"text": "t"}
            raise self.FAILURE

    return {"rich": GftRich, "pictures": GftPictures, "fetched": GftFetched, "broken": GftBroken}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with `gft_rich` in two configurations, in several files, and `gft_pictures`."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    for config in ("main", "other"):
        how = tfds.download.DownloadConfig(num_shards=3)
        builder = builders()["rich"](data_dir=folder, config=config)
        builder.download_and_prepare(file_format="array_record", download_config=how)
    builders()["pictures"](data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


@pytest.fixture
def version(prepared: Path, tmp_path: Path) -> Path:
    """A copy of one prepared version, to be spoilt."""
    return Path(shutil.copytree(prepared / "gft_rich/main/1.0.0", tmp_path / "copies/1.0.0"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a web server gives its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(split: str = "train", *, folder: Path = Path("/nowhere"), sample: int | None = None, **given: Any) -> Source:
    data = DataConfig(source="tfds", split=split, **{key: str(value) for key, value in given.items()})
    return open_tfds(data, split, folder=folder, sample_rows=sample)


def numbers(source: Source) -> list[int]:
    return [row["number"] for row in source.read() if isinstance(row, dict)]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("split", list(SIZES))
def test_rows_come_back_as_they_went_in(prepared: Path, split: str) -> None:
    source = opened(split, path=prepared / "gft_rich/main/1.0.0")
    rows = [row for row in source.read() if isinstance(row, dict)]
    assert sorted(rows, key=lambda row: row["number"]) == [plain(number, "m") for number in range(SIZES[split])]
    assert {type(row["number"]) for row in rows} == {int}
    assert {type(row["flag"]) for row in rows} == {bool}
    assert (source.total, source.complete) == (SIZES[split], True)
    assert list(source.read()) == rows


def test_lists_of_lists_are_read(version: Path) -> None:
    """TFDS cannot write these without TensorFlow; so the record is made by hand, in the form that it gives them."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    text = tfds.features.Text()
    turns = tfds.features.Sequence({"said": tfds.features.Sequence(text)})
    features = tfds.features.FeaturesDict(
        {"deep": tfds.features.Sequence(turns), "flat": tfds.features.Sequence(turns)}
    )
    example = tf_example_pb2.Example()
    made = example.features.feature
    made["deep/said/ragged_flat_values"].bytes_list.value.extend(b"abcd"[n : n + 1] for n in range(4))
    made["deep/said/ragged_row_lengths_0"].int64_list.value.extend([2, 0, 1])
    made["deep/said/ragged_row_lengths_1"].int64_list.value.extend([1, 2, 1])
    made["flat/said/ragged_flat_values"].bytes_list.SetInParent()
    made["flat/said/ragged_row_lengths_0"].int64_list.SetInParent()
    made["flat/said/ragged_row_lengths_1"].int64_list.SetInParent()
    features.save_config(str(version))
    for file in version.glob("*-test.*"):
        file.unlink()
    writer = array_record_module.ArrayRecordWriter(
        str(version / "gft_rich-test.array_record-00000-of-00001"), "group_size:1"
    )
    writer.write(example.SerializeToString())
    writer.close()

    def shorten(info: dict[str, Any]) -> None:
        next(split for split in info["splits"] if split["name"] == "test")["shardLengths"] = ["1"]

    edit(version / "dataset_info.json", shorten)
    deep = [[{"said": ["a"]}, {"said": ["b", "c"]}], [], [{"said": ["d"]}]]
    assert list(opened("test", path=version).read()) == [{"deep": deep, "flat": []}]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train[:10%]", slice(0, 4)),
        ("train[5:20]", slice(5, 20)),
        ("train[-3:]", slice(37, 40)),
        ("train[25%:75%]", slice(10, 30)),
        ("train + test", slice(0, 47)),
        ("train[35:]+test[:2]", slice(35, 42)),
    ],
)
def test_slices_and_sums_are_those_of_the_whole(prepared: Path, split: str, wanted: slice) -> None:
    path = prepared / "gft_rich/main/1.0.0"
    whole = [*opened(path=path).read(), *opened("test", path=path).read()]
    source = opened(split, path=path)
    assert list(source.read()) == whole[wanted]
    assert source.total == len(whole[wanted])


@pytest.mark.parametrize(("sample", "complete"), [(1, False), (39, False), (40, True), (1000, True)])
def test_a_look_gives_the_first_rows(prepared: Path, sample: int, complete: bool) -> None:
    path = prepared / "gft_rich/main/1.0.0"
    source = opened(path=path, sample=sample)
    assert numbers(source) == numbers(opened(path=path))[:sample]
    assert (source.total, source.complete) == (40, complete)


def test_pictures_stay_as_they_are_stored(prepared: Path) -> None:
    row = next(iter(opened(path=prepared / "gft_pictures").read()))
    assert row == {"one": PICTURE, "many": [PICTURE, PICTURE], "text": "t"}


@pytest.mark.parametrize(
    ("path", "config"),
    [("1.0.0", None), ("1.0.0", "main"), (".", None), (".", "main"), ("..", None), ("..", "main")],
)
def test_a_folder_is_found_from_above(prepared: Path, path: str, config: str | None) -> None:
    given = {"config": config} if config else {}
    row = next(iter(opened(path=(prepared / "gft_rich/main" / path).resolve(), **given).read()))
    assert isinstance(row, dict)
    assert plain(row["number"], "m") == row


def test_the_config_chooses_among_several(prepared: Path) -> None:
    row = next(iter(opened(path=prepared / "gft_rich", config="other").read()))
    assert isinstance(row, dict)
    assert plain(row["number"], "o") == row


def test_the_newest_version_is_taken_by_number(version: Path) -> None:
    for number in ("1.9.0", "1.10.0", "1.11.0"):
        shutil.copytree(version, version.parent / number)
        edit(version.parent / number / "dataset_info.json", lambda info, number=number: info.update(version=number))
    (version.parent / "1.11.0/dataset_info.json").unlink()
    assert "/1.10.0" in opened(path=version.parent).name


def test_a_name_is_found_in_the_data_directory(prepared: Path) -> None:
    for given in ({}, {"config": "main"}):
        assert len(numbers(opened(id="gft_rich", folder=prepared, sample=100, **given))) == 40
    for name in ("gft_rich/other", "GFT_rich/other:1.0.0"):
        row = next(iter(opened(id=name, folder=prepared, sample=1).read()))
        assert isinstance(row, dict)
        assert plain(row["number"], "o") == row


def test_splits_are_named(prepared: Path, tmp_path: Path) -> None:
    data = DataConfig(source="tfds", path=str(prepared / "gft_rich"))
    assert split_names(data, tmp_path) == ("train", "test")
    assert split_names(DataConfig(source="tfds", id="gft_rich"), prepared) == ("train", "test")
    assert split_names(DataConfig(source="tfds", id="glue/cola"), tmp_path) == ()
    with pytest.raises(DataError, match="knows no 'gleu'"):
        split_names(DataConfig(source="tfds", id="gleu"), tmp_path)


def test_a_run_downloads_and_prepares(
    served: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    (folder / "lines.txt").write_text("one\ntwo\nthree\n")
    builders()["fetched"].ADDRESS = f"{address}/lines.txt"
    home = tmp_path / "a home"
    with pytest.raises(DataError, match=r"gft_fetched is not on this machine yet \(its size is not known\)"):
        opened(id="gft_fetched", folder=home, sample=10)
    assert not home.exists()
    capfd.readouterr()
    source = opened(id="gft_fetched", folder=home)
    assert "GET /lines.txt" in (written := capfd.readouterr()).err, "the server's log"
    assert (written.out, written.err.count("\n")) == ("", 1), "TFDS is quiet"
    assert {row["text"] for row in source.read() if isinstance(row, dict)} == {"one", "two", "three"}
    (folder / "lines.txt").unlink()
    assert opened(id="gft_fetched", folder=home, sample=2).total == 3


def test_what_is_known_of_a_download_is_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"squad/v1.1 is not on this machine yet \(at most 81.6 MB"):
        opened(id="squad", folder=tmp_path, sample=10)
    with pytest.raises(DataError, match="by hand"):
        opened(id="xsum", folder=tmp_path, sample=10)
    with pytest.raises(DataError) as caught:
        opened(id="glue/sst2", folder=tmp_path / "it's", sample=10)
    python, flag, code = shlex.split(caught.value.report.what_to_do.split("`")[1])
    assert (python, flag) == (sys.executable, "-c")
    finds, prepares = code.split(".download_and_prepare")
    assert prepares == '(file_format="array_record")'
    done = child(f"{finds}; print(t.__name__)")
    assert done.stdout == "tensorflow_datasets\n", done.stderr


def test_a_download_that_fails_says_so_and_leaves_nothing_half_done(served: tuple[Path, str], tmp_path: Path) -> None:
    builders()["fetched"].ADDRESS = f"{served[1]}/none.txt"
    with pytest.raises(DataError, match=r"gft_fetched/1.0.0 could not be .*HTTP code: 404") as caught:
        opened(id="gft_fetched", folder=tmp_path)
    assert "network" in caught.value.report.what_to_do
    builders()["fetched"].ADDRESS = "http://127.0.0.1:9/lines.txt"
    with pytest.raises(DataError, match="Connection refused") as caught:
        opened(id="gft_fetched", folder=tmp_path)
    assert "\n" not in caught.value.report.what_happened
    assert not list((tmp_path / "gft_fetched").rglob("*.array_record*"))


def test_a_builder_that_fails_says_so_and_an_interruption_passes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the source has changed"):
        opened(id="gft_broken", folder=tmp_path)
    builders()["broken"].FAILURE = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        opened(id="gft_broken", folder=tmp_path)
    with pytest.raises(DataError, match="not on this machine yet"):
        opened(id="gft_broken", folder=tmp_path, sample=1)


def test_the_older_data_sets_are_known_too(tmp_path: Path) -> None:
    """TFDS loses most of them, without a word, when one package that it does not ask for is missing."""
    for name in ("glue", "gsm8k", "wmt19_translate", "cnn_dailymail", "coqa", "imdb_reviews", "opus"):
        assert split_names(DataConfig(source="tfds", id=name), tmp_path) == ()


@pytest.mark.parametrize(
    ("given", "what", "do"),
    [
        ({"id": "squadd"}, "knows no 'squadd'", "Did you mean 'squad'"),
        ({"id": "glue/colla"}, "glue has no configuration 'colla'", "cola"),
        ({"id": "glue/ttt"}, "glue has no configuration 'ttt'", "It has: 'cola', 'sst2'"),
        ({"id": "gsm8k", "config": "main"}, "gsm8k has no configuration", "Leave it out"),
        ({"id": "glue/cola:9.9.9"}, "only: 2.0.0", "Choose another"),
        ({"id": "glue/cola", "config": "sst2"}, "The id says 'cola', the config 'sst2'", "Leave one"),
        ({"id": "kaggle:x"}, "'kaggle:x' is no name", "glue/cola"),
        ({"id": "../../etc"}, "is no name", "glue/cola"),
        ({"id": "glue/kwarg=1"}, "is no name", "glue/cola"),
        ({"id": "super_glue"}, "super_glue .* needs tensorflow", "tfds build"),
        ({"path": "/no/such/folder"}, "no folder /no/such/folder", "TFDS prepared"),
        ({"path": __file__}, "no folder", "TFDS prepared"),
        ({"path": str(ROOT / "tests")}, "holds no data set", "dataset_info.json"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, given: dict[str, str], what: str, do: str) -> None:
    for sample in (10, None):
        with pytest.raises(DataError, match=what) as caught:
            opened(folder=tmp_path, sample=sample, **given)
        assert do in caught.value.report.what_to_do


def test_names_that_only_this_machine_has_are_listed(prepared: Path, version: Path, tmp_path: Path) -> None:
    shutil.move(version.parent, tmp_path / "home/my_own")
    for name in ("my_own/cfg", "my_own:2.0.0"):
        with pytest.raises(DataError, match="knows no 'my_own") as caught:
            opened(id=name, folder=tmp_path / "home", sample=1)
        assert "my_own/1.0.0" in caught.value.report.what_to_do
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copytree(prepared / "gft_pictures", tmp_path / "two" / name)
    with pytest.raises(DataError, match="more than one") as caught:
        opened(path=tmp_path / "two")
    assert "'a', 'b'" in caught.value.report.what_to_do
    with pytest.raises(DataError, match="no configuration 'third'"):
        opened(path=prepared / "gft_rich", config="third")
    with pytest.raises(DataError, match="not the configuration 'other'"):
        opened(path=prepared / "gft_rich/main/1.0.0", config="other")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("validation", "Unknown split 'validation'"),
        ("train[", "Unrecognized split format"),
        ("train[a:b]", "Unrecognized split format"),
        ("train[:150%]", r"\[-100, 100\]"),
        ("train[:999]", "incompatible with 40 examples"),
        ("train+", "Unrecognized"),
        ("all[:3]", "does not support slice"),
        ("train[:0]", "holds no rows"),
        ("train[20:5]", "holds no rows"),
    ],
)
def test_a_split_that_is_none_is_named_with_those_there_are(prepared: Path, split: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        opened(split, path=prepared / "gft_rich/main")
    assert re.search("'train', 'test'|another split", caught.value.report.what_to_do)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[:100],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: bytes(255 - byte for byte in raw),
        lambda raw: raw[:600] + bytes(64) + raw[664:],
        None,
    ],
    ids=["empty", "cut at once", "half", "garbage", "hole", "missing"],
)
def test_damaged_files_are_named(version: Path, spoil: Callable[[bytes], bytes] | None) -> None:
    file = version / "gft_rich-train.array_record-00001-of-00003"
    file.write_bytes(spoil(file.read_bytes())) if spoil else file.unlink()
    source = opened(path=version)
    with pytest.raises(DataError, match=f"Rows 1 to 40 of {version}, train, cannot be read: .+") as caught:
        list(source.read())
    assert "damaged" in caught.value.report.what_to_do
    assert len(list(opened("test", path=version).read())) == 7


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 5}', None])
def test_damaged_descriptions_are_named(version: Path, name: str, content: str | None) -> None:
    (version / name).write_text(content) if content is not None else (version / name).unlink()
    with pytest.raises(DataError, match=f"{version} (cannot be opened|holds no data set|is stored as)"):
        opened(path=version)


def test_a_feature_that_the_rows_lack_is_none_and_one_of_another_kind_is_damage(version: Path) -> None:
    def more(content: dict[str, Any]) -> None:
        known = content["featuresDict"]["features"]
        known |= {"lost": known["question"], "gone": known["tags"]}

    def other(content: dict[str, Any]) -> None:
        known = content["featuresDict"]["features"]
        known["question"] = known["number"]

    edit(version / "features.json", more)
    rows = [row for row in opened(path=version).read() if isinstance(row, dict)]
    assert {(row["lost"], row["gone"]) for row in rows} == {(None, None)}
    edit(version / "features.json", other)
    with pytest.raises(DataError, match=r"Rows 1 to 40 .* cannot be read: .*question"):
        list(opened(path=version).read())


def test_other_formats_and_sounds_need_tensorflow(version: Path) -> None:
    edit(version / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match="stored as 'tfrecord'; only array_record") as caught:
        opened(path=version)
    assert "--file_format=array_record" in caught.value.report.what_to_do
    edit(version / "dataset_info.json", lambda info: info.update(fileFormat="array_record"))

    def sound(content: dict[str, Any]) -> None:
        name = "tensorflow_datasets.core.features.audio_feature.Audio"
        content["featuresDict"]["features"]["question"] = {
            "pythonClassName": name,
            "audio": {"dtype": "int64", "encoding": "none"},
        }

    edit(version / "features.json", sound)
    with pytest.raises(DataError, match="cannot be opened: it needs tensorflow"):
        opened(path=version)


LOOK = """
import sys
from pathlib import Path
from gemma_ft.config import DataConfig
from gemma_ft.data.tfds import open_tfds
from gemma_ft.errors import DataError
for given in ({"path": sys.argv[1]}, {"id": "glue"}, {"id": "super_glue"}):
    try:
        source = open_tfds(DataConfig(source="tfds", **given), "train", folder=Path("/nowhere"), sample_rows=5)
        print(len(list(source.read())))
    except DataError as exc:
        print(exc)
print(sorted({"torch", "tensorflow", "gradio", "transformers"} & set(sys.modules)))
"""


def test_nothing_is_printed_and_neither_torch_nor_tensorflow_is_loaded(prepared: Path) -> None:
    done = child(LOOK, prepared / "gft_pictures")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1], len(lines), done.stderr) == ("5", "[]", 4, "")


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record", "h5py", "etils"])
def test_without_the_package_it_says_how_to_install_it(prepared: Path, package: str) -> None:
    block = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
    done = child(block + LOOK, prepared / "gft_pictures")
    first = done.stdout.splitlines()[0]
    assert "TensorFlow Datasets is not installed" in first, done.stderr
    assert package in first
    assert "-m pip install -r requirements-tfds.txt" in first


def test_looks_from_many_threads_leave_the_output_alone(prepared: Path) -> None:
    output, seen = sys.stdout, []

    def look() -> None:
        for _ in range(5):
            seen.append(len(list(opened(path=prepared / "gft_rich/main", sample=20).read())))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [20] * 30
    assert sys.stdout is output
