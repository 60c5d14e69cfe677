"""The requests that change something: repositories, settings, LFS objects, commits.

Promises: nothing is changed when a request is refused; a commit is all or nothing; an LFS object
is taken only if it was announced and has the announced hash.

Does not promise: pull requests, branches, multipart LFS uploads, locks, or checks of file content.
"""

import base64
import hashlib
import json
from typing import Any

from starlette.responses import JSONResponse, Response

from .call import Call
from .store import Account, Blob, HubError, Repo, World, wants_lfs

VISIBILITIES = ("public", "private", "protected")
GATES = (False, "auto", "manual")


def _named(call: Call) -> tuple[Account, str, str]:
    """Who wants something with which repository, named in the body."""
    user, asked = call.user(), call.json()
    repo_id = f"{asked.get('organization') or user.name}/{asked.get('name')}"
    return user, asked.get("type") or "model", repo_id


def _visibility(asked: dict[str, Any], otherwise: str) -> str:
    if "private" in asked and "visibility" not in asked:
        return "private" if asked["private"] else "public"
    visibility = str(asked.get("visibility", otherwise))
    if visibility not in VISIBILITIES:
        raise HubError(400, f"unknown visibility {visibility!r}")
    return visibility


def create_repo(world: World, call: Call) -> Response:
    user, repo_type, repo_id = _named(call)
    asked = call.json()
    visibility = _visibility(asked, "public")
    namespace = repo_id.split("/")[0]
    if not user.writes(namespace):
        raise HubError(403, f"You don't have the rights to create a {repo_type} in {namespace}")
    if existing := world.repos.get((repo_type, repo_id)):
        url = {"url": call.base + existing.path}
        raise HubError(409, f"You already created this {repo_type} repo", body=url)
    repo = world.create(repo_type, repo_id, visibility)
    files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
    if repo_type == "space":
        repo.sdk = asked.get("sdk")
        files["README.md"] = f"---\ntitle: {asked['name']}\nsdk: {repo.sdk}\n---\n".encode()
    repo.add_files(files, title="initial commit", author=user.name)
    return JSONResponse({"url": call.base + repo.path, "name": repo_id, "id": repo_id})


def delete_repo(world: World, call: Call) -> Response:
    repo = world.writable(*_named(call))
    del world.repos[repo.repo_type, repo.id]
    return Response("OK")


def auth_check_write(world: World, call: Call) -> Response:
    world.writable(*call.target)
    return Response("OK")


def settings(world: World, call: Call) -> Response:
    repo, asked = world.writable(*call.target), call.json()
    visibility, gated = _visibility(asked, repo.visibility), asked.get("gated", repo.gated)
    if gated not in GATES:
        raise HubError(400, f"unknown gate {gated!r}")
    repo.visibility, repo.gated = visibility, gated
    return JSONResponse({"visibility": visibility, "private": repo.private, "gated": gated})


def preupload(world: World, call: Call) -> Response:
    repo = world.writable(*call.target)
    known = repo.at(call.revision).files
    answer = []
    for file in call.json()["files"]:
        path = file["path"]
        lfs = wants_lfs(path, file["size"], base64.b64decode(file.get("sample") or ""))
        entry = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if path in known:
            entry["oid"] = known[path].oid
        answer.append(entry)
    return JSONResponse({"files": answer})


def lfs_batch(world: World, call: Call) -> Response:
    repo = world.writable(*call.target)
    address = f"{call.base}{repo.path}.git/info/lfs"
    objects = []
    for asked in call.json()["objects"]:
        entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in repo.lfs:
            repo.announced.add(asked["oid"])
            upload = {"href": f"{address}/objects/{asked['oid']}"}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{address}/verify"}}
        objects.append(entry)
    answer = {"transfer": "basic", "objects": objects}
    return JSONResponse(answer, media_type="application/vnd.git-lfs+json")


def _unguarded(world: World, call: Call) -> Repo:
    """The repository of an LFS address, which clients use without a token."""
    _, repo_type, repo_id = call.target
    repo = world.repos.get((repo_type, repo_id))
    if repo is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repo


def lfs_put(world: World, call: Call) -> Response:
    repo, oid = _unguarded(world, call), call.params["oid"]
    if oid not in repo.announced:
        raise HubError(403, "this object was not announced")
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise HubError(400, "the content does not have the announced hash")
    repo.lfs[oid] = call.body
    repo.announced.discard(oid)
    return Response()


def lfs_verify(world: World, call: Call) -> Response:
    repo, asked = _unguarded(world, call), call.json()
    if len(repo.lfs.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, "the object is not here, or has another size")
    return JSONResponse({})


def _changed(repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """Apply one line of a commit to `files`."""
    path = value["path"]
    if key == "file":
        plain = value.get("encoding") == "utf-8"
        content = value["content"]
        files[path] = Blob(content.encode() if plain else base64.b64decode(content), lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in repo.lfs:
            raise HubError(400, f"the LFS object of {path} was not uploaded")
        files[path] = Blob(repo.lfs[value["oid"]], lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
        if not inside:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        for name in inside:
            del files[name]
    else:
        raise HubError(400, f"unknown operation {key!r}")


def _lines(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        return [(line["key"], line["value"]) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise HubError(400, f"the body is not a commit in NDJSON: {error}") from error


def commit(world: World, call: Call) -> Response:
    repo, user = world.writable(*call.target), call.user()
    if call.flag("create_pr"):
        raise HubError(400, "this test hub has no pull requests")
    head = repo.at(call.revision)
    lines = _lines(call.body)
    header = next((value for key, value in lines if key == "header"), {})
    parent = header.get("parentCommit")
    if head is not repo.head or parent not in (None, head.oid):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for key, value in lines:
        if key != "header":
            _changed(repo, files, key, value)
    title, description = header.get("summary") or "no title", header.get("description") or ""
    new = repo.add_commit(files, title=title, author=user.name, description=description)
    url = f"{call.base}{repo.path}/commit/{new.oid}"
    return JSONResponse({"success": True, "commitOid": new.oid, "commitUrl": url, "hookOutput": ""})
