#!/bin/sh
# Installs ftpsfs: the program, its names for mount(8), and the manual.
#
#   packaging/install.sh [--binary FILE] [--prefix DIR] [--destdir DIR] [--uninstall]
#
# Without --binary it is built by cargo. mount(8) looks for helpers only in /sbin and a few other
# fixed folders, so the links go there whatever the prefix.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
binary=
prefix=/usr
destdir=
uninstall=no

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --binary) [ $# -ge 2 ] || usage; binary=$2; shift ;;
        --prefix) [ $# -ge 2 ] || usage; prefix=$2; shift ;;
        --destdir) [ $# -ge 2 ] || usage; destdir=$2; shift ;;
        --uninstall) uninstall=yes ;;
        *) usage ;;
    esac
    shift
done

bin=$destdir$prefix/bin
man=$destdir$prefix/share/man
sbin=$destdir/sbin
# Where /sbin is a link to usr/sbin, as on all current distributions, this is the same folder.
[ -n "$destdir" ] && sbin=$destdir/usr/sbin

if [ "$uninstall" = yes ]; then
    rm -f "$bin/ftpsfs" "$sbin/mount.ftps" "$sbin/mount.fuse.ftps" "$sbin/umount.fuse.ftps" \
        "$man/man1/ftpsfs.1" "$man/man8/mount.ftps.8" "$man/man8/mount.fuse.ftps.8"
    exit 0
fi

if [ -z "$binary" ]; then
    (cd "$here" && cargo build --release --locked)
    binary=${CARGO_TARGET_DIR:-$here/target}/release/ftpsfs
fi
[ -f "$binary" ] || { echo "install.sh: there is no $binary" >&2; exit 1; }

mkdir -p "$bin" "$sbin" "$man/man1" "$man/man8"
install -m 755 "$binary" "$bin/ftpsfs"
ln -sf "$prefix/bin/ftpsfs" "$sbin/mount.ftps"
# For fstab lines of type fuse.ftps, the type that /proc/mounts shows.
ln -sf "$prefix/bin/ftpsfs" "$sbin/mount.fuse.ftps"
# umount(8) calls it: it waits until everything is uploaded.
ln -sf "$prefix/bin/ftpsfs" "$sbin/umount.fuse.ftps"
install -m 644 "$here/man/ftpsfs.1" "$man/man1/ftpsfs.1"
install -m 644 "$here/man/mount.ftps.8" "$man/man8/mount.ftps.8"
ln -sf mount.ftps.8 "$man/man8/mount.fuse.ftps.8"

if [ -z "$destdir" ] && ! command -v fusermount3 >/dev/null 2>&1; then
    echo "Ordinary users need fusermount3 to mount: install the package fuse3." >&2
fi
