from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from migrate.errors import SettingsError
from migrate.switch import render, routes

from . import operator_side as operator


def rendered(site: str = operator.TRITON_SITE, **more: object) -> str:
    return render(operator.files(site), main=operator.MAIN, settings=operator.settings(**more))


def names(site: str = operator.TRITON_SITE) -> list[tuple[str, bool]]:
    found = routes(operator.files(site), main=operator.MAIN, settings=operator.settings())
    return [(route.name, route.moved) for route in found]


def server(inside: str, listen: str = "80") -> str:
    return f"server {{ listen {listen}; {inside} }}"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_accepts_it(tmp_path: Path) -> None:
    conf = tmp_path / "nginx.conf"
    text = rendered().replace("/run/migrate", str(tmp_path)).replace("/var/log/migrate", str(tmp_path))
    conf.write_text(text)
    done = subprocess.run(["nginx", "-t", "-c", str(conf)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_public_ports_move_and_others_are_left_out() -> None:
    text = rendered()
    assert re.findall(r"listen (.*);", text) == ["18080 default_server", "[::]:18080 default_server", "127.0.0.1:18090"]
    assert "grpc_pass" not in text


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        ("80", "18080"),
        ("*:80", "*:18080"),
        ("10.0.0.5:80", "10.0.0.5:18080"),
        ("10.0.0.5", "10.0.0.5:18080"),
        ("[2001:db8::1]:80", "[2001:db8::1]:18080"),
        ("[::1]", "[::1]:18080"),
    ],
)
def test_addresses_stay(written: str, moved: str) -> None:
    assert f"listen {moved};" in rendered(server("location / { proxy_pass http://127.0.0.1:8000; }", written))


def test_nothing_of_the_operators_own_files_is_written_to() -> None:
    text = rendered()
    assert "/run/nginx.pid" not in text
    assert "/var/log/nginx" not in text
    assert "access_log off" not in text


def test_only_models_that_move_are_split() -> None:
    pattern = re.search(r"location ~ '?(\^/v2[^'\s]*)'? \{", rendered())
    assert pattern
    assert re.search(pattern[1], "/v2/models/phi2/generate")
    assert re.search(pattern[1], "/v2/models/phi2_stream/versions/1/generate_stream")
    assert not re.search(pattern[1], "/v2/models/reranker/generate")
    assert not re.search(pattern[1], "/v2/models/phi2/infer")


def test_flags_are_never_read_from_a_cache() -> None:
    split = rendered().split("location ~ ")[1]
    assert "open_file_cache off;" in split.split("proxy_pass")[0]


def test_inherited_headers_are_kept_with_the_public_port() -> None:
    split = rendered().split("location ~ ")[1].split("proxy_pass")[0]
    assert re.search(r"proxy_set_header X-Port '?\$\{migrate_port\}'?;", split)
    assert "proxy_set_header Connection '';" in split


def test_openai_api_keeps_the_access_rules_of_the_location_to_triton() -> None:
    site = server(
        'location /v2/ { auth_basic "models"; auth_basic_user_file users; proxy_pass http://127.0.0.1:8000; }'
    )
    api = rendered(site).split("location /v1/ {")[1]
    assert "auth_basic_user_file /etc/nginx/users;" in api.split("proxy_pass")[0]


def test_an_operators_own_v1_stays() -> None:
    site = server("location / { proxy_pass http://127.0.0.1:8000; } location /v1/ { return 403; }")
    assert "http://migrate_vllm" not in rendered(site)


def test_relative_certificates_lie_beside_the_operators_file() -> None:
    site = server(
        "ssl_certificate certs/a.pem; location / { proxy_pass http://127.0.0.1:8000; }",
        "443 ssl",
    )
    text = rendered(site)
    assert "listen 18443 ssl;" in text
    assert "ssl_certificate /etc/nginx/certs/a.pem;" in text
    rehearsal = text.split("listen 127.0.0.1:18090;")[1]
    assert "ssl" not in rehearsal


def test_shares_of_the_steps() -> None:
    block = rendered(switch_steps=[25, 100]).split("split_clients")[1].split("}")[0]
    assert re.findall(r"(\S+) (b\d+);", block) == [("25%", "b25"), ("*", "b100")]


def test_routes_say_what_moves_and_what_stays() -> None:
    assert names() == [("80 / generate", True), ("80 /", False), ("8081 /", False)]


def test_exact_location_moves_as_a_whole() -> None:
    site = server("location = /v2/models/phi2/generate { proxy_pass http://127.0.0.1:8000; }")
    assert names(site) == [("80 = /v2/models/phi2/generate generate", True)]


def test_stream_block_to_triton_is_a_route() -> None:
    files = operator.files() | {
        operator.MAIN: operator.NGINX_CONF + "stream { server { listen 9001; proxy_pass 127.0.0.1:8001; } }"
    }
    found = routes(files, main=operator.MAIN, settings=operator.settings())
    assert (found[-1].name, found[-1].leads_to, found[-1].moved) == ("9001 stream", "triton grpc", False)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (
            server("location / { proxy_pass http://127.0.0.1:9999; }"),
            rf"{operator.SITE}:1 leads to http://127.0.0.1:9999",
        ),
        (server("location / { proxy_pass http://127.0.0.1:8000; }", "8080"), "no location passes anything on"),
        (server("location /v2/health { proxy_pass http://127.0.0.1:8000; }"), "no location leads generate requests"),
        (server("location / { proxy_pass $backend; }"), r"leads to \$backend"),
        (
            server("location /triton/ { proxy_pass http://127.0.0.1:8000/; }"),
            rf"{operator.SITE}:1: .*rewrites the path",
        ),
        (server("location / { rewrite ^/a /b break; proxy_pass http://127.0.0.1:8000; }"), "rewrites the path"),
        (
            server("location / { if ($x) { proxy_pass http://127.0.0.1:8000; } proxy_pass http://127.0.0.1:8000; }"),
            "by itself",
        ),
        (
            "upstream t { server 127.0.0.1:8000; server 10.0.0.9:8000; }"
            + server("location / { proxy_pass http://t; }"),
            "mixes",
        ),
        ("server { listen 80;\n location / {", rf"{operator.SITE}:2: "),
        ("include missing.conf;", "includes /etc/nginx/missing.conf"),
        ("include sites-enabled/triton;", "in a circle"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(site: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        rendered(site)


def test_tritons_own_port_cannot_be_public() -> None:
    with pytest.raises(SettingsError, match="switch_ports: 8000 is Triton's own port"):
        rendered(switch_ports={8000: 18080})


def test_main_file_that_was_not_read() -> None:
    with pytest.raises(SettingsError, match=r"/etc/other.conf was not read"):
        render(operator.files(), main="/etc/other.conf", settings=operator.settings())
