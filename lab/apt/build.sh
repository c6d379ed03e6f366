#!/bin/sh
# Builds and signs the lab's apt repositories from the unpacked packages in /trees into /repositories. Runs in a throwaway
# container of the images' root filesystem, so that the machine needs neither apt-utils nor gpg; the keys that sign are
# made here and gone with the container.
set -eu
export DEBIAN_FRONTEND=noninteractive GNUPGHOME=/root/gnupg
apt-get -qq update
apt-get -qq install --yes --no-install-recommends apt-utils gpg gpg-agent >/dev/null
install -d -m 0700 "$GNUPGHOME"

build() {
    repository=$1 origin=$2 label=$3
    user="migrate lab: stand-in of $label"
    gpg --batch --quiet --passphrase '' --quick-gen-key "$user" ed25519 sign never
    mkdir -p "/repositories/$repository"
    gpg --batch --export "$user" >"/repositories/$repository/keyring.gpg"
    gpg --batch --armor --export "$user" >"/repositories/$repository/gpgkey"
    for tree in /trees/"$repository"/*; do
        case $tree in
            */cuda-keyring_*)
                install -D -m 0644 "/repositories/$repository/keyring.gpg" \
                    "$tree/usr/share/keyrings/cuda-archive-keyring.gpg" ;;
        esac
        dpkg-deb --root-owner-group -Zgzip --build "$tree" "/repositories/$repository" >/dev/null
    done
    cd "/repositories/$repository"
    apt-ftparchive packages . >Packages
    gzip --keep Packages
    apt-ftparchive -o "APT::FTPArchive::Release::Origin=$origin" -o "APT::FTPArchive::Release::Label=$label" \
        -o "APT::FTPArchive::Release::Description=A stand-in of the lab" release . >/tmp/Release
    mv /tmp/Release Release
    gpg --batch --local-user "$user" --clearsign --output InRelease Release
    gpg --batch --local-user "$user" --armor --detach-sign --output Release.gpg Release
}

while IFS='|' read -r repository origin label; do
    build "$repository" "$origin" "$label"
done </trees/repositories

# The same index as cuda's, changed after it was signed: for the proof that nothing is installed from it.
mkdir /repositories/tampered
cp /repositories/cuda/Packages /repositories/cuda/Packages.gz /repositories/tampered
sed 's/^Label: .*/Label: changed after signing/' /repositories/cuda/InRelease >/repositories/tampered/InRelease

cp /trees/nvidia-container-toolkit.list /repositories/libnvidia-container/
