#!/bin/sh
# Installs the Debian packages that the tests and the demo need, naming them first. Does nothing where all are there.
set -eu

needed=""
while read -r command package; do
    command -v "$command" >/dev/null 2>&1 || needed="$needed $package"
done <<EOF
nginx nginx-light
chromium chromium
nft nftables
ssh openssh-client
EOF
python3 -c 'import ensurepip' 2>/dev/null || needed="$needed python3-venv"
[ -n "$needed" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "these packages are missing:$needed" >&2
    echo "  next: sudo apt-get install$needed" >&2
    exit 64
fi
echo "installing:$needed"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# A service that starts by itself would take a port that the lab needs.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
# shellcheck disable=SC2086 - the names are words
apt-get -qq install --no-install-recommends -y $needed >/dev/null
