"""The test hub against the real clients: what it must do for the other tests to mean anything.

Promises: every call goes through `huggingface_hub`, `transformers` or `datasets` over HTTP; caches
live in temp folders, so that nothing of the machine's own cache or token is used.

Does not promise: that huggingface.co answers the same; the shapes were taken from its clients.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import huggingface_hub.constants
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_server import HubServer

Operations = list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]
WEIGHTS = bytes(range(256)) * 2000
CARD = b"---\nlicense: gemma\ntags: [demo]\n---\n# Tiny\n"

CHILD = """
import json
from datasets import load_dataset
from transformers import AutoConfig

config = AutoConfig.from_pretrained("someone/tiny")
rows = load_dataset("someone/tiny-data", split="train")
print(json.dumps({"class": type(config).__name__, "layers": config.num_hidden_layers,
                  "rows": rows.to_list()}))
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with three people; lab is an organisation of ann's, where bob may only read."""
    for name, value in (("DISABLE_XET", True), ("DISABLE_TELEMETRY", True), ("OFFLINE", False)):
        monkeypatch.setattr(huggingface_hub.constants, f"HF_HUB_{name}", value)
    with HubServer() as server:
        server.add_user("ann", "hf_ann", orgs=["lab"])
        server.add_user("ann", "hf_ann_read", role="read", orgs=["lab"])
        server.add_user("bob", "hf_bob", orgs={"lab": "read"})
        server.add_user("eve", "hf_eve")
        yield server


def api(hub: HubServer, token: str | bool) -> HfApi:
    """The real client; False means anonymous."""
    return HfApi(endpoint=hub.endpoint, token=token)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a card, a nested text file, and weights that go by LFS."""
    path = tmp_path / "upload"
    (path / "logs").mkdir(parents=True)
    (path / "README.md").write_bytes(CARD)
    (path / "logs" / "run.txt").write_text("räksmörgås\n", encoding="utf-8")
    (path / "model.safetensors").write_bytes(WEIGHTS)
    return path


def test_a_folder_comes_back_byte_for_byte(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    ann = api(hub, "hf_ann")
    url = ann.create_repo("ann/tiny", private=True)
    assert (url.repo_id, str(url)) == ("ann/tiny", f"{hub.endpoint}/ann/tiny")
    done = ann.upload_folder(repo_id="ann/tiny", folder_path=folder, commit_message="first")

    names = ["README.md", "logs/run.txt", "model.safetensors"]
    assert sorted(ann.list_repo_files("ann/tiny")) == [".gitattributes", *names]
    for name in names:
        local = ann.hf_hub_download("ann/tiny", name, cache_dir=tmp_path / "cache")
        assert Path(local).read_bytes() == (folder / name).read_bytes() == hub.files("ann/tiny")[name]
    info = ann.model_info("ann/tiny", files_metadata=True)
    by_lfs = {file.rfilename for file in info.siblings or [] if file.lfs}
    assert (info.sha, info.private, by_lfs) == (done.oid, True, {"model.safetensors"})
    assert info.card_data is not None
    assert info.card_data.license == "gemma"
    assert [c.title for c in ann.list_repo_commits("ann/tiny")] == ["first", "initial commit"]


def test_the_same_upload_again_changes_nothing(hub: HubServer, folder: Path) -> None:
    ann = api(hub, "hf_ann")
    ann.create_repo("ann/tiny")
    first = ann.upload_folder(repo_id="ann/tiny", folder_path=folder)
    asked = len(hub.requests)
    again = ann.upload_folder(repo_id="ann/tiny", folder_path=folder)
    assert again.oid == first.oid
    assert not [seen for seen in hub.requests[asked:] if "/commit/" in seen.path]
    assert len(hub.repo("ann/tiny")["commits"]) == 2


def test_weights_already_there_are_not_sent_again(hub: HubServer) -> None:
    ann = api(hub, "hf_ann")
    ann.create_repo("ann/tiny")
    for name in ("a.safetensors", "b.safetensors"):
        ann.upload_file(path_or_fileobj=WEIGHTS, path_in_repo=name, repo_id="ann/tiny")
    puts = [seen for seen in hub.requests if seen.method == "PUT"]
    assert [seen.authorization for seen in puts] == [None]
    assert hub.files("ann/tiny")["b.safetensors"] == WEIGHTS


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_every_kind_is_made_changed_and_deleted(hub: HubServer, repo_type: str) -> None:
    ann = api(hub, "hf_ann")
    sdk = "gradio" if repo_type == "space" else None
    url = ann.create_repo("lab/thing", repo_type=repo_type, space_sdk=sdk)
    assert ann.create_repo("lab/thing", repo_type=repo_type, space_sdk=sdk, exist_ok=True) == url
    with pytest.raises(HfHubHTTPError) as error:
        ann.create_repo("lab/thing", repo_type=repo_type, space_sdk=sdk)
    assert status_of(error) == 409

    ann.upload_file(path_or_fileobj=b"\0\1", path_in_repo="x/y", repo_id="lab/thing", repo_type=repo_type)
    assert ann.repo_info("lab/thing", repo_type=repo_type).id == "lab/thing"
    assert hub.files("lab/thing", repo_type)["x/y"] == b"\0\1"
    ann.update_repo_settings("lab/thing", repo_type=repo_type, private=True, gated="manual")
    assert hub.repo("lab/thing", repo_type)["private"]
    assert hub.repo("lab/thing", repo_type)["gated"] == "manual"
    ann.delete_repo("lab/thing", repo_type=repo_type)
    assert not ann.repo_exists("lab/thing", repo_type=repo_type)
    ann.delete_repo("lab/thing", repo_type=repo_type, missing_ok=True)


@pytest.mark.parametrize("token", ["hf_eve", "hf_bob", "hf_ann_read"])
def test_a_foreign_namespace_cannot_be_written(hub: HubServer, token: str) -> None:
    hub.add_repo("lab/shared", {"a.txt": b"a"})
    stranger = api(hub, token)
    for repo_id in ("lab/new", "lab/shared"):
        with pytest.raises(HfHubHTTPError) as error:
            stranger.create_repo(repo_id)
        assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError) as error:
        stranger.upload_file(path_or_fileobj=b"b", path_in_repo="a.txt", repo_id="lab/shared")
    assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError):
        stranger.auth_check("lab/shared", write=True)
    stranger.auth_check("lab/shared")
    assert hub.files("lab/shared") == {"a.txt": b"a"}


def test_whoami_tells_the_user_the_role_and_the_organisations(hub: HubServer) -> None:
    who = api(hub, "hf_bob").whoami()
    assert (who["name"], who["orgs"][0]["name"]) == ("bob", "lab")
    assert who["orgs"][0]["roleInOrg"] == "read"
    read = api(hub, "hf_ann_read").whoami()
    assert read["auth"]["accessToken"]["role"] == "read"
    assert hub.requests[-1] == ("GET", "/api/whoami-v2", "Bearer hf_ann_read")


def test_a_bad_token_is_refused_even_for_public_things(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("ann/open", {"a.txt": b"a"})
    stale = api(hub, "hf_stale")
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as error:
        stale.whoami()
    assert status_of(error) == 401
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        stale.model_info("ann/open")
    assert not isinstance(error.value, RepositoryNotFoundError)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        stale.hf_hub_download("ann/open", "a.txt", cache_dir=tmp_path)


def test_a_gated_repository_wants_a_grant(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("google/gated", {"config.json": b"{}"}, gated=True)
    for token, status in ((False, 401), ("hf_eve", 403)):
        person = api(hub, token)
        assert person.model_info("google/gated").gated == "auto"
        assert [entry.path for entry in person.list_repo_tree("google/gated")] == ["config.json"]
        with pytest.raises(GatedRepoError) as error:
            person.auth_check("google/gated")
        assert status_of(error) == status
        with pytest.raises(GatedRepoError):
            person.hf_hub_download("google/gated", "config.json", cache_dir=tmp_path)
    hub.grant("google/gated", "eve")
    api(hub, "hf_eve").auth_check("google/gated")
    api(hub, "hf_eve").hf_hub_download("google/gated", "config.json", cache_dir=tmp_path)


@pytest.mark.parametrize("token", ["hf_eve", False])
def test_a_private_repository_is_not_there_for_others(hub: HubServer, token: str | bool) -> None:
    hub.add_repo("lab/secret", {"a.txt": b"a"}, repo_type="dataset", private=True)
    assert api(hub, "hf_bob").dataset_info("lab/secret").private
    person = api(hub, token)
    with pytest.raises(RepositoryNotFoundError) as error:
        person.dataset_info("lab/secret")
    assert not isinstance(error.value, GatedRepoError)
    with pytest.raises(RepositoryNotFoundError):
        person.auth_check("lab/secret", repo_type="dataset")
    assert not person.repo_exists("lab/secret", repo_type="dataset")


def test_a_snapshot_has_every_file_of_one_commit(hub: HubServer, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "onnx/model.onnx": WEIGHTS, "empty.txt": b""}
    hub.add_repo("ann/open", files)
    old = api(hub, False).model_info("ann/open").sha
    api(hub, "hf_ann").delete_file("config.json", "ann/open")
    path = Path(api(hub, False).snapshot_download("ann/open", revision=old, cache_dir=tmp_path))
    found = {name.relative_to(path).as_posix(): name.read_bytes() for name in path.rglob("*.*")}
    assert found == files
    assert path.name == old
    assert set(hub.files("ann/open")) == {"onnx/model.onnx", "empty.txt"}


def test_listings_by_folder_and_by_path(hub: HubServer) -> None:
    hub.add_repo("ann/open", {"a/b/c.txt": b"c", "a/d.bin": b"dd", "e.txt": b""}, "dataset")
    client = api(hub, False)

    def listed(folder: str | None, recursive: bool) -> list[str]:
        found = client.list_repo_tree("ann/open", folder, recursive=recursive, repo_type="dataset")
        return [entry.path for entry in found]

    assert listed(None, False) == ["a", "e.txt"]
    assert listed("a", True) == ["a/b", "a/b/c.txt", "a/d.bin"]
    found = client.get_paths_info("ann/open", ["a/d.bin", "a", "no"], repo_type="dataset")
    assert [entry.path for entry in found] == ["a/d.bin", "a"]
    refs = client.list_repo_refs("ann/open", repo_type="dataset")
    assert refs.branches[0].target_commit == client.dataset_info("ann/open").sha


def test_what_is_missing_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("ann/open", {"a.txt": b"a"})
    client = api(hub, "hf_eve")
    with pytest.raises(RemoteEntryNotFoundError):
        client.hf_hub_download("ann/open", "b.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        client.model_info("ann/open", revision="refs/pr/1")
    assert hub.requests[-1].path == "/api/models/ann/open/revision/refs%2Fpr%2F1"
    with pytest.raises(RepositoryNotFoundError):
        client.model_info("ann/none")


def test_a_commit_is_all_or_nothing_and_knows_its_parent(hub: HubServer) -> None:
    hub.add_repo("ann/open", {"old/a.txt": b"a", "old/b.txt": b"b", "c.txt": b"c"})
    ann = api(hub, "hf_ann")
    parent = ann.model_info("ann/open").sha
    moves: Operations = [CommitOperationDelete("old/"), CommitOperationAdd("new/a.txt", b"A")]
    ann.create_commit("ann/open", moves, commit_message="move", parent_commit=parent)
    assert hub.files("ann/open") == {"new/a.txt": b"A", "c.txt": b"c"}

    late: Operations = [CommitOperationAdd("c.txt", b"C")]
    with pytest.raises(HfHubHTTPError) as error:
        ann.create_commit("ann/open", late, commit_message="late", parent_commit=parent)
    assert status_of(error) == 412
    broken: Operations = [CommitOperationAdd("c.txt", b"C"), CommitOperationDelete("none.txt")]
    with pytest.raises(HfHubHTTPError):
        ann.create_commit("ann/open", broken, commit_message="broken")
    assert hub.files("ann/open")["c.txt"] == b"c"


def test_a_part_of_a_file(hub: HubServer) -> None:
    hub.add_repo("ann/open", {"w.bin": WEIGHTS})
    address = f"{hub.endpoint}/ann/open/resolve/main/w.bin"
    for asked, part in (
        ("10-19", WEIGHTS[10:20]),
        ("511990-", WEIGHTS[511990:]),
        ("-5", WEIGHTS[-5:]),
    ):
        with urlopen(Request(address, headers={"Range": f"bytes={asked}"})) as answer:
            assert (answer.status, answer.read()) == (206, part)


def test_a_card_with_broken_metadata_is_refused(hub: HubServer) -> None:
    hub.add_repo("ann/open", {})
    ann = api(hub, "hf_ann")
    with pytest.raises(ValueError, match="Invalid metadata"):
        ann.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id="ann/open")
    assert hub.files("ann/open") == {}


def test_injected_failures_come_once_each(hub: HubServer) -> None:
    hub.add_repo("ann/open", {"a.txt": b"a"})
    hub.fail_next("/api/models/ann", 503, times=2)
    hub.fail_next("/api/models/ann/open/commit", 501, method="POST")
    ann = api(hub, "hf_ann")
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as error:
            ann.model_info("ann/open")
        assert status_of(error) == 503
    ann.model_info("ann/open")
    with pytest.raises(HfHubHTTPError) as error:
        ann.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id="ann/open")
    assert status_of(error) == 501
    ann.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id="ann/open")
    assert hub.files("ann/open") == {"a.txt": b"a", "b.txt": b"b"}


def test_transformers_and_datasets_in_a_child(hub: HubServer, tmp_path: Path) -> None:
    config = {"model_type": "gemma3_text", "num_hidden_layers": 2, "hidden_size": 64}
    rows = [{"prompt": "2+2?", "completion": "4"}, {"prompt": "Sky?", "completion": "blue"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub.add_repo("someone/tiny", {"config.json": json.dumps(config).encode()})
    hub.add_repo("someone/tiny-data", {"data/train.jsonl": lines}, "dataset", private=True)
    hub.add_user("someone", "hf_someone")
    home = str(tmp_path / "home")
    own = {"HF_HOME": home, "HF_TOKEN": "hf_someone", "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **hub.environment(), **own}
    command = [sys.executable, "-c", CHILD]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout.splitlines()[-1])
    assert told == {"class": "Gemma3TextConfig", "layers": 2, "rows": rows}
    assert {seen.authorization for seen in hub.requests} == {"Bearer hf_someone"}
