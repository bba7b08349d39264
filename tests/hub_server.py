"""A small in-memory Hugging Face Hub on 127.0.0.1, for tests that use the real `huggingface_hub` client.

    with HubServer() as hub:
        api = HfApi(endpoint=hub.endpoint, token="any-token")

Models, datasets and spaces are served, with one branch, `main`. Any bearer token is accepted except "bad". Below,
KIND is models, datasets or spaces, and the path parts in brackets may be missing.

    endpoint                                            client call
    GET  /api/whoami-v2                                 whoami
    POST /api/validate-yaml                             ModelCard.validate, upload_folder, create_commit
    POST /api/repos/create                              create_repo
    GET  /api/KIND/user/name[/revision/REV]             repo_info, model_info, space_info, repo_exists
    GET  /api/KIND/user/name/tree/REV[/FOLDER]          list_repo_tree, list_repo_files, snapshot_download, load_dataset
    POST /api/KIND/user/name/paths-info/REV             get_paths_info
    POST /api/KIND/user/name/preupload/REV              upload_folder, create_commit: how to send each file
    POST [/KIND]/user/name.git/info/lfs/objects/batch   the same: where to PUT the large files
    PUT  /lfs/OID, POST /lfs/OID/verify                 the same: the large files
    POST /api/KIND/user/name/commit/REV                 the same: the commit, as ndjson
    HEAD, GET [/KIND]/user/name/resolve/REV/PATH        hf_hub_download, snapshot_download, file_exists, from_pretrained

Pull requests, other branches, tags and Xet transfers are not served.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import parse_qs

import uvicorn
import yaml
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

COLOURS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
SPACE_VALUES = {"sdk": ["gradio", "streamlit", "docker", "static"], "colorFrom": COLOURS, "colorTo": COLOURS}


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    sdk: str | None = None
    commits: list[Commit] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        parent = self.commits[-1].sha if self.commits else ""
        content = [self.kind, self.id, parent, message, {path: git_oid(data) for path, data in files.items()}]
        self.commits.append(Commit(hashlib.sha1(json.dumps(content).encode()).hexdigest(), message, files))
        return self.commits[-1]


@dataclass
class Failure:
    left: int
    status: int
    path_contains: str


class HubServer:
    """Serve `repos` until the `with` block ends.

    With `lfs=True`, *.safetensors files go through Git LFS, as on the real Hub. huggingface_hub 2 sends such files by
    Xet if it can, whatever the server answers, so its HF_HUB_DISABLE_XET=1 must be set then.
    """

    def __init__(self, user: str = "user", lfs: bool = False) -> None:
        self.user = user
        self.lfs = lfs
        self.repos: dict[str, Repo] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._failures: list[Failure] = []
        self._app = build_app(self)

    def __enter__(self) -> "HubServer":
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="hub-server", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("The test Hub did not start.")
            time.sleep(0.01)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def fail_next(self, n: int = 1, status: int = 503, path_contains: str = "") -> None:
        """Answer the next `n` requests whose path contains `path_contains` with `status`; 0 drops the connection."""
        self._failures.append(Failure(n, status, path_contains))

    async def _serve(self, scope, receive, send) -> None:
        self.requests.append((scope["method"], scope["path"]))
        failure = next((f for f in self._failures if f.left and f.path_contains in scope["path"]), None)
        if failure is None:
            await self._app(scope, receive, send)
            return
        failure.left -= 1
        await Request(scope, receive).body()
        if failure.status:
            await PlainTextResponse("injected failure", failure.status)(scope, receive, send)
            return
        # ASGI has no way to hang up; uvicorn's `send` is a method of the object that holds the connection.
        send.__self__.transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hub_error(status: int, message: str, code: str = "") -> HTTPException:
    return HTTPException(status, message, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))


def read_card(text: str) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a README.md and what is wrong with its syntax."""
    header = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*?(\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        return {}, [str(error)]
    if isinstance(data, dict):
        return data, []
    return {}, [] if data is None else ["YAML metadata must be a mapping"]


def build_app(hub: HubServer) -> FastAPI:  # noqa: C901  one small function an endpoint
    # Everything is async: FastAPI runs plain functions in worker threads, which would outlive the server.
    async def get_token(request: Request) -> str:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token == "bad":
            raise hub_error(401, "Invalid credentials in Authorization header")
        return token

    Token = Annotated[str, Depends(get_token)]

    async def require_token(request: Request, token: Token) -> None:
        if not token:
            # The real Hub sends no code: the client reads any such 401 as RepoNotFound, but on https URLs only.
            code = "RepoNotFound" if "namespace" in request.path_params else ""
            raise hub_error(401, "Invalid username or password.", code)

    signed_in = [Depends(require_token)]

    async def get_repo(request: Request, token: Token) -> Repo:
        params = request.path_params
        repo = hub.repos.get(f"{params.get('kind', 'models')}/{params['namespace']}/{params['name']}")
        if repo is None or repo.private:
            await require_token(request, token)
        if repo is None:
            raise hub_error(404, "Repository not found", "RepoNotFound")
        return repo

    HubRepo = Annotated[Repo, Depends(get_repo)]

    async def get_commit(request: Request, repo: HubRepo) -> Commit:
        rev = request.path_params.get("rev", "main")
        for commit in reversed(repo.commits):
            if rev in ("main", commit.sha):
                return commit
        raise hub_error(404, "Invalid rev id", "RevisionNotFound")

    HubCommit = Annotated[Commit, Depends(get_commit)]

    def is_lfs(path: str) -> bool:
        return hub.lfs and path.endswith(".safetensors")

    def content_id(path: str, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest() if is_lfs(path) else git_oid(data)

    def file_entry(path: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if is_lfs(path):
            sha256 = content_id(path, data)
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
            entry["oid"] = git_oid(pointer)
            entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": len(pointer)}
        return entry

    def entries(commit: Commit) -> dict[str, dict[str, Any]]:
        """Every file and folder of a commit, by path."""
        found = {path: file_entry(path, data) for path, data in commit.files.items()}
        folders = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
        found |= {p: {"type": "directory", "path": p, "size": 0, "oid": git_oid(p.encode())} for p in folders}
        return dict(sorted(found.items()))

    def url(repo: Repo) -> str:
        return f"{hub.endpoint}/{repo.id}" if repo.kind == "models" else f"{hub.endpoint}/{repo.kind}/{repo.id}"

    app = FastAPI(openapi_url=None, dependencies=[Depends(get_token)])
    api = "/api/{kind}/{namespace}/{name}"

    @app.get("/api/whoami-v2", dependencies=signed_in)
    async def whoami():
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return {"type": "user", "name": hub.user, "fullname": hub.user, "orgs": [], "auth": access}

    @app.post("/api/validate-yaml")
    async def validate_yaml(payload: dict[str, Any]):
        data, errors = read_card(payload["content"])
        if not isinstance(data.get("tags", []), list):
            errors.append('"tags" must be an array')
        if payload["repoType"] == "space":
            for key, allowed in SPACE_VALUES.items():
                if data.get(key, allowed[0]) not in allowed:
                    errors.append(f'"{key}" must be one of {allowed}')
        warnings = [] if data or errors else ["empty or missing yaml metadata in repo card"]
        answer = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        return JSONResponse(answer, 400 if errors else 200)

    @app.post("/api/repos/create", dependencies=signed_in)
    async def create_repo(payload: dict[str, Any]):
        # The client says `private` before huggingface_hub 2 and `visibility` since.
        private = payload.get("private") or payload.get("visibility") == "private"
        repo_id = f"{payload['organization'] or hub.user}/{payload['name']}"
        repo = Repo(payload.get("type", "model") + "s", repo_id, bool(private), payload.get("sdk"))
        if f"{repo.kind}/{repo.id}" in hub.repos:
            return JSONResponse({"error": "You already created this repo", "url": url(repo)}, 409)
        hub.repos[f"{repo.kind}/{repo.id}"] = repo
        repo.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": url(repo), "name": repo.id, "id": repo.id}

    @app.get(api)
    @app.get(api + "/revision/{rev}")
    async def repo_info(repo: HubRepo, commit: HubCommit, blobs: bool = False):
        card, _ = read_card(commit.files.get("README.md", b"").decode())
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if blobs:
            for sibling in siblings:
                entry = file_entry(sibling["rfilename"], commit.files[sibling["rfilename"]])
                sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
        info = {"id": repo.id, "sha": commit.sha, "private": repo.private, "gated": False, "disabled": False}
        info |= {"author": repo.id.split("/")[0], "siblings": siblings, "cardData": card, "tags": card.get("tags", [])}
        if repo.kind == "models":
            info |= {"pipeline_tag": card.get("pipeline_tag"), "library_name": card.get("library_name")}
        if repo.kind == "spaces":
            info["sdk"] = card.get("sdk", repo.sdk)
        return info

    @app.get(api + "/tree/{rev}")
    @app.get(api + "/tree/{rev}/{folder:path}")
    async def tree(commit: HubCommit, folder: str = "", recursive: bool = False):
        found = entries(commit)
        if folder and found.get(folder, {}).get("type") != "directory":
            raise hub_error(404, "The folder does not exist", "EntryNotFound")
        root = PurePosixPath(folder)
        inside = {path: PurePosixPath(path).parents for path in found}
        return [found[p] for p, parents in inside.items() if (root in parents if recursive else root == parents[0])]

    @app.post(api + "/paths-info/{rev}")
    async def paths_info(request: Request, commit: HubCommit):
        found = entries(commit)
        paths = parse_qs((await request.body()).decode()).get("paths", [])
        return [found[path] for path in paths if path in found]

    @app.post(api + "/preupload/{rev}", dependencies=signed_in)
    async def preupload(commit: HubCommit, payload: dict[str, Any]):
        files = []
        for path in [file["path"] for file in payload["files"]]:
            oid = content_id(path, commit.files[path]) if path in commit.files else None
            mode = "lfs" if is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    @app.post("/{namespace}/{name}.git/info/lfs/objects/batch", dependencies=signed_in)
    @app.post("/{kind}/{namespace}/{name}.git/info/lfs/objects/batch", dependencies=signed_in)
    async def lfs_batch(repo: HubRepo, payload: dict[str, Any]):
        objects = []
        for item in payload["objects"]:
            href = f"{hub.endpoint}/lfs/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            # No actions means that the Hub has the file already.
            objects.append(item if item["oid"] in hub.lfs_objects else item | {"actions": actions})
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/{oid}")
    async def lfs_put(oid: str, request: Request):
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise hub_error(400, "The content does not match its oid")
        hub.lfs_objects[oid] = data

    @app.post("/lfs/{oid}/verify")
    async def lfs_verify(oid: str, payload: dict[str, Any]):
        if len(hub.lfs_objects.get(oid, b"")) != payload["size"]:
            raise hub_error(404, "The object was not uploaded")

    @app.post(api + "/commit/{rev}", dependencies=signed_in)
    async def create_commit(rev: str, request: Request, repo: HubRepo, create_pr: bool = False):
        if rev != "main" or create_pr:
            raise hub_error(400, "This Hub commits to main only")
        lines = (await request.body()).splitlines()
        head = repo.commits[-1]
        files, message = dict(head.files), ""
        for line in lines:
            kind, value = itemgetter("key", "value")(json.loads(line))
            path = value.get("path", "")
            if kind == "header":
                message = value["summary"]
                if value.get("parentCommit", head.sha) != head.sha:
                    raise hub_error(412, "A commit has happened since. Please refresh and try again.")
            elif kind == "file":
                files[path] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                if value["oid"] not in hub.lfs_objects:
                    raise hub_error(400, "An LFS object was not uploaded")
                files[path] = hub.lfs_objects[value["oid"]]
            elif kind == "deletedFile":
                if files.pop(path, None) is None:
                    raise hub_error(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                files = {p: data for p, data in files.items() if not p.startswith(path.rstrip("/") + "/")}
        commit = repo.commit(message, files)
        return {"success": True, "commitOid": commit.sha, "commitUrl": f"{url(repo)}/commit/{commit.sha}"}

    @app.api_route("/{namespace}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
    @app.api_route("/{kind}/{namespace}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(path: str, request: Request, commit: HubCommit):
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            error = hub_error(404, "Entry not found", "EntryNotFound")
            raise HTTPException(404, error.detail, error.headers | headers)
        data = commit.files[path]
        headers["ETag"] = f'"{content_id(path, data)}"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if wanted is None:
            return Response(data, 200, headers, "application/octet-stream")
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start > end:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Response(data[start : end + 1], 206, headers, "application/octet-stream")

    return app
