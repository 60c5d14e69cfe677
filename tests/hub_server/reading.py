"""The requests that change nothing: identity, search, metadata, listings, access checks, downloads.

Promises: the shapes and headers that real clients read; a gated repository shows its metadata to
everybody and its files only to those who were granted access.

Does not promise: every field of the real Hub, expansion of fields, paging (one page holds all), or
other orders and filters of a search than downloads, author and a part of the id.
"""

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs

import yaml
from starlette.responses import JSONResponse, Response

from .call import Call
from .store import Blob, Commit, HubError, Repo, World

FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def whoami(_: World, call: Call) -> Response:
    user = call.user()
    orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in user.orgs.items()]
    access = {"displayName": "test", "role": user.role}
    access |= {"fineGrained": user.fine_grained} if user.fine_grained is not None else {}
    answer = {"type": "user", "id": f"id-{user.name}", "name": user.name, "fullname": user.name}
    auth = {"type": "access_token", "accessToken": access}
    return JSONResponse({**answer, "isPro": False, "orgs": orgs, "auth": auth})


def hardware(world: World, call: Call) -> Response:
    """What can be rented in one place and what it costs; everybody may know."""
    return JSONResponse(world.hardware[call.request.url.path.split("/")[2]])


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a card; ValueError when they are not a YAML mapping."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}
    try:
        value = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"invalid YAML: {error}") from error
    if not isinstance(value, dict | None):
        raise ValueError("the front matter is not a mapping")
    return value or {}


def validate_yaml(_: World, call: Call) -> Response:
    try:
        found = front_matter(call.json().get("content", ""))
    except ValueError as error:
        problem = {"errors": [{"message": str(error)}], "warnings": []}
        raise HubError(400, "Invalid metadata", body=problem) from error
    warning = {"message": "empty or missing yaml metadata in repo card"}
    return JSONResponse({"errors": [], "warnings": [] if found else [warning]})


def _card(commit: Commit) -> dict[str, Any]:
    readme = commit.files.get("README.md")
    try:
        return front_matter(readme.data.decode("utf-8", "replace")) if readme else {}
    except ValueError:
        return {}


def _sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path}
    if not blobs:
        return entry
    size = len(blob.data)
    entry |= {"size": size, "blobId": blob.git_oid}
    if blob.lfs:
        entry["lfs"] = {"sha256": blob.sha256, "size": size, "pointerSize": len(blob.pointer)}
    return entry


def info(world: World, call: Call) -> Response:
    repo = world.visible(*call.target)
    commit = repo.at(call.revision)
    siblings = [_sibling(path, blob, call.flag("blobs")) for path, blob in sorted(commit.files.items())]
    return JSONResponse({**_summary(repo, commit), "cardData": _card(commit), "siblings": siblings})


def search(world: World, call: Call) -> Response:
    """Repositories whose id holds the text, whatever the case; the most downloaded first."""
    query = call.request.query_params
    text, author = query.get("search", "").lower(), query.get("author")
    found = [repo for repo in world.found(call.account, call.repo_type) if text in repo.id.lower()]
    found = [repo for repo in found if author in (None, repo.namespace)]
    return JSONResponse([_summary(repo, repo.head) for repo in found[: int(query.get("limit", 1000))]])


def moved(world: World, call: Call) -> Response:
    """The redirect for a name without an owner."""
    new_id = world.moved.get((call.repo_type, call.params["name"]))
    if new_id is None:
        raise HubError(401 if call.account is None else 404, "Repository not found", "RepoNotFound")
    rest = call.request.url.path.removeprefix(f"/api/{call.repo_type}s/{call.params['name']}")
    return Response(status_code=307, headers={"Location": f"/api/{call.repo_type}s/{new_id}{rest}"})


def _summary(repo: Repo, commit: Commit) -> dict[str, Any]:
    tags = _card(commit).get("tags") or []
    answer: dict[str, Any] = {
        "_id": hashlib.sha1(repo.path.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": _date(commit),
        "createdAt": _date(repo.commits[0]),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": 0,
        "tags": tags if isinstance(tags, list) else [tags],
    }
    if repo.sdk:
        answer["sdk"] = repo.sdk
    return answer


def _date(commit: Commit) -> str:
    return commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    size = len(blob.data)
    entry = {"type": "file", "oid": blob.git_oid, "size": size, "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": size, "pointerSize": len(blob.pointer)}
    return entry


def _folder_entry(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(f"tree {path}".encode()).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _entries(files: dict[str, Blob]) -> dict[str, dict[str, Any]]:
    """Every file and every folder of a commit, by path."""
    entries = {path: _file_entry(path, blob) for path, blob in files.items()}
    for path in files:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            entries.setdefault(folder, _folder_entry(folder))
    return dict(sorted(entries.items()))


def tree(world: World, call: Call) -> Response:
    commit = world.visible(*call.target).at(call.revision)
    entries = _entries(commit.files)
    folder = call.params.get("path", "").strip("/")
    start = f"{folder}/" if folder else ""
    if folder and entries.get(folder, {}).get("type") != "directory":
        raise HubError(404, f"{folder} does not exist on {call.revision}", "EntryNotFound")
    below = [path for path in entries if path.startswith(start)]
    if not call.flag("recursive"):
        below = [path for path in below if "/" not in path[len(start) :]]
    return JSONResponse([entries[path] for path in below])


def paths_info(world: World, call: Call) -> Response:
    entries = _entries(world.visible(*call.target).at(call.revision).files)
    if call.request.headers.get("content-type", "").startswith("application/json"):
        wanted = call.json().get("paths", [])
    else:
        wanted = parse_qs(call.body.decode()).get("paths", [])
    return JSONResponse([entries[path] for path in wanted if path in entries])


def refs(world: World, call: Call) -> Response:
    repo = world.visible(*call.target)
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head.oid}
    return JSONResponse({"branches": [main], "converts": [], "tags": [], "pullRequests": []})


def commits(world: World, call: Call) -> Response:
    repo = world.visible(*call.target)
    last = repo.commits.index(repo.at(call.revision))
    answer = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.description,
            "date": _date(commit),
            "authors": [{"user": commit.author}],
        }
        for commit in reversed(repo.commits[: last + 1])
    ]
    return JSONResponse(answer)


def auth_check(world: World, call: Call) -> Response:
    world.readable(*call.target)
    return Response("OK")


def resolve(world: World, call: Call) -> Response:
    repo = world.readable(*call.target)
    path = call.params["path"]
    blob, commit = repo.file(call.revision, path), repo.at(call.revision)
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{blob.oid}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    asked = RANGE.fullmatch(call.request.headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return Response(blob.data, headers=headers)
    return _part(blob.data, asked[1], asked[2], headers)


def _part(data: bytes, first: str, last: str, headers: dict[str, str]) -> Response:
    size = len(data)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(data[start:stop], 206, headers)
