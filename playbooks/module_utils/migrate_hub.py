"""A model hub over HTTP: what a repository holds at a revision, and its files from any byte on.

Hugging Face: `GET /api/models/REPO/revision/REV?blobs=true` gives the commit and every file with its size and hash,
`GET /REPO/resolve/COMMIT/FILE` the file (huggingface_hub, `HfApi.model_info` and `hf_hub_url`). ModelScope:
`GET /api/v1/models/REPO/repo/files` and `…/repo?Revision=…&FilePath=…` (modelscope, `modelscope/hub/api.py` and
`file_download.py`); a revision that is none is answered there with 200 and no files.
"""

from __future__ import annotations

import http.client
import json
import posixpath
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

ENDPOINTS = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn"}
BRANCHES = {"huggingface": "main", "modelscope": "master"}
TIMEOUT_S = 30
_LARGEST_LISTING = 64 << 20
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "migrate"}
_SECRET_HEADERS = ("Authorization", "Cookie")
_BUSY = (408, 429, 500, 502, 503, 504)


class HubError(Exception):
    """The hub gave no answer, or one that cannot be used; the text names the setting.

    `silent`: nothing answered; `passing`: asking again may help.
    """

    def __init__(self, text: str, *, silent: bool = False, passing: bool = False) -> None:
        super().__init__(text)
        self.silent = silent
        self.passing = passing or silent


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes and `sha256:HEX`, or `git:HEX` for what is no large file there."""

    size: int
    hash: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, and the models that its card says it was made from."""

    commit: str
    files: Mapping[str, RemoteFile]
    bases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hub:
    """A repository on a hub, and the way there."""

    kind: str
    repository: str
    endpoint: str = ""
    proxy: str = ""
    token: str = field(default="", repr=False)

    @property
    def base(self) -> str:
        """The hub's address without a slash at its end."""
        return (self.endpoint or ENDPOINTS[self.kind]).rstrip("/")

    @property
    def host(self) -> str:
        """The hub's name as people say it."""
        return urlsplit(self.base).netloc

    def listing(self, revision: str = "") -> Listing:
        """The repository at a branch, tag or commit; "" is the hub's usual branch. Raises HubError."""
        asked = revision or BRANCHES[self.kind]
        listing = _LISTINGS[self.kind](self, asked)
        if wrong := [name for name in listing.files if not _is_plain(name)]:
            raise HubError(f"weights_repository: {self.repository} holds a file of the name {wrong[0]!r}")
        if not listing.files:
            raise HubError(f"weights_repository: {self.repository} holds no files at {asked}")
        return listing

    def url(self, commit: str, name: str) -> str:
        """Where a file of a commit is."""
        if self.kind == "modelscope":
            query = urlencode({"Revision": commit, "FilePath": name})
            return f"{self.base}/api/v1/models/{self.repository}/repo?{query}"
        return f"{self.base}/{self.repository}/resolve/{quote(commit, safe='')}/{quote(name)}"

    def read(self, commit: str, name: str, start: int, count: int) -> bytes:
        """`count` bytes of a file from `start` on, fewer at its end. Raises HubError."""
        with self.open(self.url(commit, name), start, start + count - 1) as answer:
            if start and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise HubError(f"weights_endpoint: {self.host} does not give parts of files (Range)")
            try:
                return answer.read(count)
            except (OSError, http.client.HTTPException) as error:
                raise HubError(f"{self.host}: {name} broke off: {error}", passing=True) from None

    def open(self, url: str, start: int = 0, end: int | None = None) -> http.client.HTTPResponse:
        """The answer to a GET, from byte `start` to `end` on where either is given. Raises HubError."""
        request = urllib.request.Request(url, headers=_HEADERS)  # noqa: S310 - settings allow http and https alone
        if start or end is not None:
            request.add_header("Range", f"bytes={start}-{'' if end is None else end}")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if self.token and self.kind == "modelscope":
            request.add_header("Cookie", f"m_session_id={self.token}")
        proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _Redirects())
        try:
            answer: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = getattr(error, "reason", None) or error
            raise HubError(f"weights_endpoint: {self.host} does not answer: {said}", silent=True) from None
        return answer

    def asked(self, path: str) -> Any:
        """The JSON that the hub answers. Raises HubError."""
        with self.open(f"{self.base}{path}") as answer:
            try:
                return json.loads(answer.read(_LARGEST_LISTING))
            except (ValueError, OSError, http.client.HTTPException, RecursionError):
                raise HubError(
                    f"weights_endpoint: {self.host} is no {self.kind} hub: it answers no JSON", passing=True
                ) from None

    def _refused(self, error: urllib.error.HTTPError) -> HubError:
        if error.code in (401, 403):
            known = "weights_token has no right to it; accept its licence on its page" if self.token else _NO_TOKEN
            return HubError(f"weights_repository: {self.host} says {error.code} for {self.repository}: {known}")
        if error.code == 404:
            what = error.headers.get("X-Error-Code", "")
            if what == "RevisionNotFound":
                return HubError(f"weights_revision: {self.repository} has no such revision on {self.host}")
            return HubError(f"weights_repository: {self.host} has no {self.repository}, or not this file of it")
        return HubError(f"weights_endpoint: {self.host} says {error.code} {error.reason}", passing=error.code in _BUSY)


_NO_TOKEN = "it is private, gated or not there; put weights_token into the vault"  # noqa: S105 - a message


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; what proves who asks is not told to another server, such as the store behind the hub."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            for name in _SECRET_HEADERS:
                following.remove_header(name)
        return following


def _huggingface(hub: Hub, revision: str) -> Listing:
    told = hub.asked(f"/api/models/{hub.repository}/revision/{quote(revision, safe='')}?blobs=true")
    try:
        files = {str(one["rfilename"]): _sibling(one) for one in told["siblings"]}
        return Listing(str(told["sha"]), files, _bases(told.get("cardData") or {}))
    except (KeyError, TypeError, ValueError):
        raise HubError(
            f"weights_endpoint: {hub.host} gives no commit, sizes and hashes; it is no full mirror"
        ) from None


def _sibling(one: Mapping[str, Any]) -> RemoteFile:
    large = one.get("lfs")
    return RemoteFile(int(one["size"]), f"sha256:{large['sha256']}" if large else f"git:{one['blobId']}")


def _bases(card: Mapping[str, Any]) -> tuple[str, ...]:
    named = card.get("base_model") or []
    return tuple(str(one) for one in ([named] if isinstance(named, str) else named))


def _modelscope(hub: Hub, revision: str) -> Listing:
    told = hub.asked(
        f"/api/v1/models/{hub.repository}/repo/files?{urlencode({'Revision': revision, 'Recursive': True})}"
    )
    try:
        if not told["Success"]:
            raise HubError(f"weights_repository: {hub.host} says {told.get('Message')} for {hub.repository}")
        data = told["Data"]
        if data["Files"] is None:
            raise HubError(f"weights_revision: {hub.repository} has no revision {revision!r} on {hub.host}")
        found = [one for one in data["Files"] if one["Type"] != "tree"]
        files = {str(one["Path"]): RemoteFile(int(one["Size"]), f"sha256:{one['Sha256']}") for one in found}
        return Listing(_head(data, found, revision), files)
    except (KeyError, TypeError, ValueError):
        raise HubError(f"weights_endpoint: {hub.host} gives no sizes and hashes; it is no ModelScope hub") from None


def _head(data: Mapping[str, Any], found: list[Mapping[str, Any]], revision: str) -> str:
    """The commit of a listing: of the last one only the short form may be told, the long one stands at a file of it."""
    last = data.get("LatestCommitter") or {}
    short = str(last.get("ShortId") or "")
    files = (str(one.get("Revision") or "") for one in found)
    long = next((one for one in files if short and one.startswith(short)), "")
    return str(last.get("Id") or long or short or revision)


def _is_plain(name: str) -> bool:
    """Whether a name stays below the folder that it is put into."""
    is_odd = not name.isprintable() or "\\" in name or name.startswith("/")
    return not is_odd and posixpath.normpath(name) == name and ".." not in name.split("/")


_LISTINGS = {"huggingface": _huggingface, "modelscope": _modelscope}
