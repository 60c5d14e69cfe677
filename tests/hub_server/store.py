"""What the test hub keeps: accounts, repositories, commits and blobs, and who may see them.

Promises: no HTTP in here; every refusal is a `HubError` with the status and the error code that
the real Hub gives. Callers hold `World.lock`.

Does not promise: git objects. Commit ids are only unique, while blob ids are those of git, since
clients compare these with their own.
"""

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

LFS_NAMES = re.compile(
    r".*\.(arrow|bin|ckpt|gguf|gz|h5|joblib|model|msgpack|npy|npz|onnx|parquet|pkl|pt|pth"
    r"|safetensors|tar|wasm|xz|zip|zst)"
)
LFS_SIZE = 10 * 1024 * 1024
BAD_TOKEN = "Invalid credentials in Authorization header"


class HubError(Exception):
    """A refusal: status, message, and the value of X-Error-Code where the Hub sends one."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.body = {"error": message, **(body or {})}
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class Account:
    """One token and whom it acts for."""

    name: str
    token: str
    role: str
    orgs: dict[str, str]
    fine_grained: dict[str, Any] | None = None

    def reads(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs

    def writes(self, namespace: str) -> bool:
        if self.role == "read" or not self.reads(namespace) or not self._grants("repo.write", namespace):
            return False
        return namespace == self.name or self.orgs[namespace] != "read"

    def _grants(self, permission: str, namespace: str) -> bool:
        """Whether a fine-grained token names this permission; any other token has what its role has."""
        if self.fine_grained is None:
            return True
        scopes = self.fine_grained["scoped"]
        return any(permission in scope["permissions"] for scope in scopes if scope["entity"]["name"] == namespace)


@dataclass(frozen=True)
class Blob:
    """The content of a file, and whether the Hub keeps it in LFS."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}")
        return "\n".join((*lines, f"size {len(self.data)}\n")).encode()

    @property
    def oid(self) -> str:
        """What clients compare to know whether they hold the same content."""
        return self.sha256 if self.lfs else self.git_oid


def wants_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub would ask for this file by LFS: by name, size, or because it is binary."""
    if size == 0:
        return False
    return bool(LFS_NAMES.fullmatch(path)) or size > LFS_SIZE or b"\0" in sample


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    oid: str
    title: str
    description: str
    author: str
    date: datetime
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository with one branch, main."""

    repo_type: str
    id: str
    visibility: str = "public"
    gated: str | bool = False
    sdk: str | None = None
    downloads: int = 0
    commits: list[Commit] = field(default_factory=list)
    granted: set[str] = field(default_factory=set)
    lfs: dict[str, bytes] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def private(self) -> bool:
        return self.visibility != "public"

    @property
    def path(self) -> str:
        """The repository's page, and the beginning of the URLs of its files."""
        return f"/{self.id}" if self.repo_type == "model" else f"/{self.repo_type}s/{self.id}"

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        if revision in ("main", "refs/heads/main"):
            return self.head
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def file(self, revision: str, path: str) -> Blob:
        commit = self.at(revision)
        if path not in commit.files:
            headers = {"X-Repo-Commit": commit.oid}
            raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
        return commit.files[path]

    def add_commit(self, files: dict[str, Blob], *, title: str, author: str, description: str = "") -> Commit:
        seed = f"{self.repo_type} {self.id} {len(self.commits)} {title} {sorted(files)}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        commit = Commit(oid, title, description, author, datetime.now(UTC), files)
        self.commits.append(commit)
        return commit

    def add_files(self, files: dict[str, bytes], *, title: str, author: str) -> Commit:
        blobs = {path: Blob(data, wants_lfs(path, len(data), data)) for path, data in files.items()}
        self.lfs.update({blob.sha256: blob.data for blob in blobs.values() if blob.lfs})
        return self.add_commit(blobs, title=title, author=author)


class World:
    """Every account and repository of one hub."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.accounts: dict[str, Account] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.hardware: dict[str, list[dict[str, Any]]] = {"jobs": [], "spaces": []}

    def account(self, authorization: str | None) -> Account | None:
        """Who asks; None without a token. An unknown token is refused, also for public things."""
        if authorization is None:
            return None
        account = self.accounts.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise HubError(401, BAD_TOKEN)
        return account

    def create(self, repo_type: str, repo_id: str, visibility: str) -> Repo:
        if (repo_type, repo_id) in self.repos:
            raise ValueError(f"{repo_type} {repo_id} exists")
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, visibility)
        return repo

    def visible(self, account: Account | None, repo_type: str, repo_id: str) -> Repo:
        """The repository, if this account may know of it."""
        repo = self.repos.get((repo_type, repo_id))
        member = repo is not None and account is not None and account.reads(repo.namespace)
        if repo is not None and (member or not repo.private):
            return repo
        if account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")

    def found(self, account: Account | None, repo_type: str) -> list[Repo]:
        """The repositories that this account may know of, the most downloaded first."""
        of_type = [repo for (kind, _), repo in self.repos.items() if kind == repo_type]
        known = [repo for repo in of_type if not repo.private or (account and account.reads(repo.namespace))]
        return sorted(known, key=lambda repo: -repo.downloads)

    def readable(self, account: Account | None, repo_type: str, repo_id: str) -> Repo:
        """The repository, if this account may download its files."""
        repo = self.visible(account, repo_type, repo_id)
        if not repo.gated:
            return repo
        text = f"Access to {repo_type} {repo_id} is restricted"
        if account is None:
            raise HubError(401, f"{text}. You must be authenticated to access it.", "GatedRepo")
        if account.fine_grained is not None and not account.fine_grained["canReadGatedRepos"]:
            hint = "Please enable access to public gated repositories in your fine-grained token settings"
            raise HubError(403, f"{hint} to view this repository.")
        if account.name not in repo.granted and not account.reads(repo.namespace):
            raise HubError(403, f"{text} and you are not in the authorized list.", "GatedRepo")
        return repo

    def writable(self, account: Account | None, repo_type: str, repo_id: str) -> Repo:
        """The repository, if this account may change it."""
        repo = self.visible(account, repo_type, repo_id)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        if not account.writes(repo.namespace):
            raise HubError(403, f"You don't have write rights on {repo_type} {repo_id}")
        return repo
