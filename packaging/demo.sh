#!/bin/sh
# demo.sh [DIR]: builds ftpsfs, serves a sample folder (or DIR) over FTPS on this machine, and mounts it.
# What is missing (fuse3, a C compiler for linking) is installed first where apt-get is at hand.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

die() { echo "demo.sh: $*" >&2; exit 1; }
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "not root, and no sudo: as root run: $*"; fi
}

command -v cargo >/dev/null || die 'cargo is missing: install Rust 1.95 or later, see https://rustup.rs'
missing=
command -v fusermount3 >/dev/null || missing="$missing fuse3"
command -v cc >/dev/null && [ -e /usr/include/stdlib.h ] || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || die "missing, and no apt-get to install it:$missing"
    as_root apt-get -qq update
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
fi
[ -c /dev/fuse ] || as_root modprobe fuse || die '/dev/fuse is missing: this machine cannot mount'
cargo build --quiet --release
exec "${CARGO_TARGET_DIR:-target}/release/ftpsfs" demo "$@"
