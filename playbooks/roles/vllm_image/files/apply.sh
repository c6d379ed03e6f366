#!/bin/bash
# Applies every *.patch of a folder to a source tree, in the order of their names; ends at the first that does not fit.
set -euo pipefail
shopt -s nullglob
source_tree=$1 folder=$2
for file in "$folder"/*.patch; do
    echo "applying ${file##*/}"
    if ! patch --directory="$source_tree" --strip=1 --forward --batch --fuzz=0 --input="$file"; then
        echo "migrate: patch ${file##*/} does not apply to this release: rebase it, or take it out of image_patches_dir"
        exit 1
    fi
done
