#!/bin/sh
# Runs once inside the fresh root filesystem of gpu01: the operator's account, and nothing that needs real hardware.
set -eu
useradd --create-home --shell /bin/bash --groups sudo ops
rm -f /etc/ssh/ssh_host_* /etc/machine-id /etc/nginx/sites-enabled/default /var/lib/dbus/machine-id
: > /etc/machine-id
systemctl enable ssh nginx docker
systemctl mask getty.target console-getty.service sys-kernel-debug.mount systemd-modules-load.service
