"""The files of an nginx configuration, as nginx reads them, of folders that are odd, hostile and large."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def module(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_nginx")


def put(root: Path, files: dict[str, str | bytes]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(root / "nginx.conf")


SITE: dict[str, str | bytes] = {
    "nginx.conf": """\
        user www-data; # include comment.conf;
        pid /dev/null; error_log stderr;
        events {}
        http {
          access_log off;
          log_format main '$remote_addr "include no.conf;" \\' ${request}#x';
          include mime.types; include "a file.conf";
          include 'conf.d/*.conf'; include sites/[ab]; include none/*;
          map $host $name { include map.inc; default 1; }
          include mime.types;
        }
        """,
    "mime.types": "types { include more.types; text/html html; }",
    "more.types": "text/css css;",
    "a file.conf": "# configuration file /etc/shadow:\nserver_tokens off;",
    "conf.d/b.conf": "server { listen unix:{0}/b; location ~ ^/x{{1,2}$ {{ return 200 'include no.conf;'; }} }",
    "conf.d/a.conf": "upstream u { server 127.0.0.1:1; include nested/*; }",
    "conf.d/.hidden.conf": "broken",
    "nested/one": "keepalive 2;",
    "sites/a": b"# caf\xe9\nserver { listen unix:{0}/a; }",
    "sites/c": "broken",
    "map.inc": "example.org 2;",
    "comment.conf": "",
    "no.conf": "",
}
WANTED = "nginx.conf,mime.types,more.types,a file.conf,conf.d/a.conf,nested/one,conf.d/b.conf,sites/a,map.inc".split(
    ","
)


def site(root: Path) -> str:
    main = put(root, SITE)
    (root / "conf.d" / "b.conf").write_text(
        f"server {{ listen unix:{root}/b; location ~ '^/x{{1,2}}$' {{ return 200 'include no.conf;'; }} }}"
    )
    (root / "sites" / "a").write_bytes(b"# caf\xe9\nserver { listen unix:" + os.fsencode(root) + b"/a; }")
    return main


def test_files_are_read_in_nginxs_order(module: ModuleType, tmp_path: Path) -> None:
    files, unread = module.nginx_files(site(tmp_path))
    assert [os.path.relpath(name, tmp_path) for name in files] == WANTED
    assert unread == []


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_the_same_files_as_nginx_lists(module: ModuleType, tmp_path: Path) -> None:
    main = site(tmp_path)
    done = subprocess.run(["nginx", "-T", "-c", main], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    listed = re.findall(rf"^# configuration file ({tmp_path}.+):$", done.stdout.decode(errors="replace"), re.MULTILINE)
    assert list(module.nginx_files(main)[0]) == listed


def test_a_comment_reads_no_file_and_a_dump_is_read_as_it_is(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    dump = f"# configuration file {tmp_path}/secret:\n# configuration file /none/gone.conf:\nevents {{}}\n"
    main = put(tmp_path, {"nginx.conf": dump})
    found = module.nginx("nginx", main, lambda argv: (0, "", "nginx version: nginx/1.26.3"))
    assert (list(found["files"]), found["reason"], found["version"]) == ([main], None, "1.26.3")
    assert "hunter2" not in str(found)


def test_nginx_is_asked_for_its_version_only(module: ModuleType, tmp_path: Path) -> None:
    asked = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        asked.append(argv)
        return 0, "active", "nginx version: nginx/1"

    assert module.nginx("nginx", put(tmp_path, {"nginx.conf": ""}), run)["running"]
    assert asked == [["nginx", "-v"], ["systemctl", "is-active", "nginx"]]


def test_an_absent_nginx_is_the_reason(module: ModuleType, tmp_path: Path) -> None:
    found = module.nginx("nginx", put(tmp_path, {"nginx.conf": ""}), lambda argv: (127, "", "nginx: No such file"))
    assert (found["version"], found["running"], found["files"], found["reason"]) == (
        None,
        False,
        {},
        "nginx: No such file",
    )


def test_what_cannot_be_read_is_a_reason(module: ModuleType, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    main = put(
        tmp_path, {"nginx.conf": "include gone.conf; include pipe; include folder; include 'a\0b'; include nginx.conf;"}
    )
    files, unread = module.nginx_files(main)
    assert list(files) == [main]
    assert [line.partition(": ")[2] for line in unread] == [
        "No such file or directory",
        "not a regular file",
        "Is a directory",
        "embedded null byte",
    ]
    found = module.nginx("nginx", main, lambda argv: (0, "", "nginx version: nginx/1"))
    assert "gone.conf: No such file" in found["reason"]


def test_number_and_size_are_bounded(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = put(tmp_path, {"nginx.conf": "include d/*;"} | {f"d/{number}": "#" * 30 for number in range(5)})
    monkeypatch.setattr(module, "MAX_FILES", 3)
    files, unread = module.nginx_files(main)
    assert (len(files), len(unread)) == (3, 1)
    monkeypatch.setattr(module, "MAX_FILES", 30)
    monkeypatch.setattr(module, "MAX_FILE", 20)
    assert len(module.nginx_files(main)[1]) == 5
    monkeypatch.setattr(module, "MAX_FILE", 100)
    monkeypatch.setattr(module, "MAX_BYTES", 80)
    assert len(module.nginx_files(main)[1]) == 3


def test_lua_is_not_nginxs_language(module: ModuleType) -> None:
    text = "content_by_lua_block { local t = {a = {}} -- }\n include no.conf; } include yes.conf;"
    assert list(module.included(text)) == ["yes.conf"]
