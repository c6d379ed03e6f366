"""Fetches one file of a package from pip's index and keeps it only where its sha256 is the one asked for.

pip itself cannot: `pip download` of an sdist runs its setup.py, which wants torch and every build requirement first.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html.parser
import shutil
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

TIMEOUT_S = 120
INDEX = "https://pypi.org/simple"


def main(name: str, sha256: str, target: str) -> int:
    """Print what went wrong after `migrate: `; 0 where the file is there."""
    try:
        link = _link(_setting("index-url") or INDEX, name)
        with _open(link) as answer, Path(target).open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, LookupError) as error:
        print(f"migrate: {name} could not be fetched: {error}; see image_pip_config, image_ca_file and image_network")
        return 1
    found = hashlib.sha256(Path(target).read_bytes()).hexdigest()
    if found != sha256:
        Path(target).unlink()
        print(f"migrate: {name} has sha256 {found}, image_vllm_sha256 is {sha256}: nothing of it was used")
        return 1
    return 0


class _Links(html.parser.HTMLParser):
    """The links of an index page (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep each link's address."""
        self.found += [value for key, value in attrs if tag == "a" and key == "href" and value]


def _link(index: str, name: str) -> str:
    """Address of the file. Raises LookupError where the index has no such file."""
    page = f"{index.rstrip('/')}/{name.rpartition('-')[0]}/"
    links = _Links()
    with _open(page) as answer:
        links.feed(answer.read().decode())
    for link in links.found:
        address = urllib.parse.urljoin(page, link)
        if urllib.parse.unquote(urllib.parse.urlsplit(address).path).endswith(f"/{name}"):
            return _with_credentials(address, index)
    raise LookupError(f"{_bare(page)} has no {name}")


def _open(address: str):  # type: ignore[no-untyped-def]
    """The answer to a GET, with the address's user and password, pip's proxy and pip's certificates."""
    parts = urllib.parse.urlsplit(address)
    headers = {"Accept": "text/html, application/octet-stream"}
    if parts.username:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    context = ssl.create_default_context(cafile=_setting("cert") or None)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context), _Redirects()]
    if proxy := _setting("proxy"):
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    request = urllib.request.Request(_bare(address), headers=headers)  # noqa: S310 - the address is the operator's
    return urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the index's credentials are not told to another server."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """The next request, without them where scheme, host or port differ."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following and _server(newurl) != _server(req.full_url):
            following.remove_header("Authorization")
        return following


def _server(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _bare(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _with_credentials(address: str, index: str) -> str:
    """A file on the index's own server is asked for with the index's credentials."""
    file, own = urllib.parse.urlsplit(address), urllib.parse.urlsplit(index)
    same = _server(address) == _server(index) and not file.username
    return urllib.parse.urlunsplit(file._replace(netloc=own.netloc)) if same else address


def _setting(name: str) -> str:
    """A value of pip's configuration, its environment variables first; empty where it has none."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S).stdout  # noqa: S603 - argv is ours
    found = dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)
    quoted = found.get(f":env:.{name}") or found.get(f"global.{name}") or "''"
    return str(ast.literal_eval(quoted))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
