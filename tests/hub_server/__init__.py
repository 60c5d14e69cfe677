"""A small real Hub on 127.0.0.1, for tests of real clients without internet.

Promises: `HubServer` speaks the part of the Hugging Face Hub's HTTP API that `huggingface_hub`,
`transformers`, `datasets` and `peft` use to create, read, write, guard, find and delete model,
dataset and Space repositories, with parts of files for those who stream, and with a redirect where
a repository got another name; and it tells what hardware costs. Storage is in memory and dies with the server.

Does not promise: Xet, pull requests, tags, branches other than main, discussions, full text search,
the dataset viewer, Jobs, running Spaces, paging, `.gitignore` rules, `.gitattributes` rules or rate
limits. A request for one of these is answered 404 and is still listed in `requests`.
"""

import socket
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import uvicorn

from .store import Account, Repo, World
from .web import Failure, HubApp, Seen

__all__ = ["HubServer", "Seen"]


class _Server(uvicorn.Server):
    """A uvicorn server that says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class HubServer:
    """`with HubServer() as hub:` serves at `hub.endpoint` until the block ends."""

    def __init__(self) -> None:
        self._world = World()
        self._app = HubApp(self._world)
        # Only with the protocol named does asyncio send small answers at once, instead of 40 ms later.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="hub", daemon=True
        )

    def __enter__(self) -> "HubServer":
        self._thread.start()
        if not self._server.ready.wait(10):
            raise RuntimeError("the test hub did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    @property
    def requests(self) -> list[Seen]:
        """What was asked so far: (method, raw path without query, Authorization header or None)."""
        return list(self._app.seen)

    @property
    def sent(self) -> int:
        """How many bytes the bodies of the answers had so far, all together."""
        return self._app.sent

    def environment(self) -> dict[str, str]:
        """What a child process needs to use this hub; give it an HF_HOME of its own too."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def add_user(
        self,
        name: str,
        token: str,
        role: str = "write",
        orgs: Iterable[str] | Mapping[str, str] = (),
        *,
        gated: bool = True,
        writes: Iterable[str] = (),
    ) -> None:
        """Let `token` act as `name`; call again with the same name for a second token.

        `role` is the token's: "read", "write" or "fineGrained"; of the last, `gated` says whether it
        reads gated repositories and `writes` are the namespaces that it may write. `orgs` are names,
        where the user is an admin, or a mapping from name to the role there ("read" cannot write).
        """
        roles = dict(orgs) if isinstance(orgs, Mapping) else dict.fromkeys(orgs, "admin")
        scoped = [{"entity": {"type": "user", "name": space}, "permissions": ["repo.write"]} for space in writes]
        fine = {"canReadGatedRepos": gated, "global": [], "scoped": scoped} if role == "fineGrained" else None
        with self._world.lock:
            self._world.accounts[token] = Account(name, token, role, roles, fine)

    def offer(self, place: str, hardware: Iterable[Mapping[str, Any]]) -> None:
        """Say what can be rented for "jobs" or "spaces", in the words of the real Hub."""
        with self._world.lock:
            self._world.hardware[place] = [dict(item) for item in hardware]

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        repo_type: str = "model",
        private: bool = False,
        gated: bool | str = False,
        downloads: int = 0,
    ) -> None:
        """Make a repository that holds exactly `files`; `gated` may be "auto" or "manual"."""
        with self._world.lock:
            repo = self._world.create(repo_type, repo_id, "private" if private else "public")
            repo.gated = "auto" if gated is True else gated
            repo.downloads = downloads
            repo.add_files(dict(files), title="initial commit", author=repo.namespace)

    def move(self, old_id: str, new_id: str, repo_type: str = "model") -> None:
        """Answer for `old_id`, which may have no owner (`squad`), with a redirect to `new_id`."""
        with self._world.lock:
            self._world.moved[repo_type, old_id] = new_id

    def grant(self, repo_id: str, user: str, repo_type: str = "model") -> None:
        """Put `user` on the list of those who may download a gated repository."""
        with self._world.lock:
            self._repo(repo_id, repo_type).granted.add(user)

    def files(self, repo_id: str, repo_type: str = "model") -> dict[str, bytes]:
        """The files at the head of main; KeyError when there is no such repository.

        A repository that a client created begins with `.gitattributes` (a Space with `README.md`
        too), as on the real Hub.
        """
        with self._world.lock:
            head = self._repo(repo_id, repo_type).head
            return {path: blob.data for path, blob in head.files.items()}

    def repo(self, repo_id: str, repo_type: str = "model") -> dict[str, Any]:
        """What a test may ask of a repository besides its files; KeyError when there is none."""
        with self._world.lock:
            repo = self._repo(repo_id, repo_type)
            titles = [commit.title for commit in repo.commits]
            return {"private": repo.private, "gated": repo.gated, "commits": titles}

    def fail_next(
        self,
        path_prefix: str,
        status: int,
        times: int = 1,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests whose raw path starts so with `status`.

        The client retries 429 and most 5xx by itself on some calls, after waits of a second or
        more; use 400, 403 or 501 where the failure itself is wanted at once.
        """
        self._app.failures.append(Failure(path_prefix, status, times, method, dict(headers or {})))

    def cut_next(self, path_prefix: str, times: int = 1) -> None:
        """Close the connection in the middle of the next `times` answers to GET for paths that start so.

        The client goes on where it was; it gives up after six answers in a row without a byte more.
        """
        self._app.failures.append(Failure(path_prefix, 0, times, "GET"))

    def _repo(self, repo_id: str, repo_type: str) -> Repo:
        return self._world.repos[repo_type, repo_id]
