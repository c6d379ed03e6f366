"""What an operator's nginx looks like, and the settings that go with it."""

from __future__ import annotations

from typing import Any

from migrate.settings import Settings, load

MAIN = "/etc/nginx/nginx.conf"
SITE = "/etc/nginx/sites-enabled/triton"

NGINX_CONF = """
user www-data;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
include modules-enabled/*.conf;
events { worker_connections 768; }
http {
    include mime.types;
    access_log /var/log/nginx/access.log;
    open_file_cache max=100;
    include /etc/nginx/sites-enabled/*;
}
"""
TRITON_SITE = """
upstream triton { server 127.0.0.1:8000 max_fails=0; }
server {
    listen 80 default_server;
    listen [::]:80 default_server;
    server_name _;
    proxy_set_header X-Port $server_port;
    location / {
        proxy_pass http://triton;
        proxy_buffering off;
        access_log off;
    }
    location = /static { return 200 "static; yes"; }
}
server {
    listen 8081 http2;
    location / { grpc_pass grpc://127.0.0.1:8001; }
}
"""


def files(site: str = TRITON_SITE) -> dict[str, str]:
    """An operator's configuration in three files."""
    return {MAIN: NGINX_CONF, "/etc/nginx/mime.types": "types { text/html html; }", SITE: site}


def settings(**more: Any) -> Settings:
    """Settings of a host with two models, and whatever a test changes."""
    return load(
        {
            "migrate_public_http_url": "http://gpu01",
            "triton_model_repository": "/srv/triton/models",
            "triton_models": {"phi2": {"style": "python"}, "phi2_stream": {"style": "vllm"}},
            "triton_probe_model": "phi2",
            "vllm_image": "registry.lab:5000/vllm-openai:v0.31.0",
            "vllm_weights_source": "/srv/triton/models/phi2/1/weights",
            "vllm_served_model_name": "phi2",
            "switch_ports": {80: 18080, 443: 18443},
        }
        | more
    )
