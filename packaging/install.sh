#!/bin/sh
# Installs ftpsfs: the program, its names for mount(8), the manual, completions and examples.
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
share=$destdir$prefix/share
man=$share/man
doc=$share/doc/ftpsfs
bash=$share/bash-completion/completions/ftpsfs
fish=$share/fish/vendor_completions.d/ftpsfs.fish
# Debian's zsh looks in one folder, all others in the other.
zsh="$share/zsh/vendor-completions/_ftpsfs $share/zsh/site-functions/_ftpsfs"
entry=$share/applications/ftpsfs.desktop
etc=$destdir/etc/ftpsfs
sbin=$destdir/sbin
# Where /sbin is a link to usr/sbin, as on all current distributions, this is the same folder.
[ -n "$destdir" ] && sbin=$destdir/usr/sbin

if [ "$uninstall" = yes ]; then
    # shellcheck disable=SC2086
    rm -f "$bin/ftpsfs" "$sbin/mount.ftps" "$sbin/mount.fuse.ftps" "$sbin/umount.fuse.ftps" "$bash" "$fish" $zsh "$entry"
    for page in man1/ftpsfs.1 man8/mount.ftps.8 man8/mount.fuse.ftps.8 man8/umount.fuse.ftps.8; do
        rm -f "$man/$page" "$man/$page.gz"
    done
    rm -rf "$doc"
    # What the administrator has put there stays.
    rm -f "$etc/example.cred"
    rmdir "$etc" 2>/dev/null || true
    exit 0
fi

if [ -z "$binary" ]; then
    (cd "$here" && cargo build --release --locked)
    binary=${CARGO_TARGET_DIR:-$here/target}/release/ftpsfs
fi
[ -f "$binary" ] || { echo "install.sh: there is no $binary" >&2; exit 1; }

mkdir -p "$bin" "$sbin" "$man/man1" "$man/man8" "$doc/examples" "$etc"
install -m 755 "$binary" "$bin/ftpsfs"
ln -sf "$prefix/bin/ftpsfs" "$sbin/mount.ftps"
# For fstab lines of type fuse.ftps, the type that /proc/mounts shows.
ln -sf "$prefix/bin/ftpsfs" "$sbin/mount.fuse.ftps"
# umount(8) calls it: it waits until everything is uploaded.
ln -sf "$prefix/bin/ftpsfs" "$sbin/umount.fuse.ftps"

gzip -9nc "$here/man/ftpsfs.1" >"$man/man1/ftpsfs.1.gz"
gzip -9nc "$here/man/mount.ftps.8" >"$man/man8/mount.ftps.8.gz"
ln -sf mount.ftps.8.gz "$man/man8/mount.fuse.ftps.8.gz"
ln -sf mount.ftps.8.gz "$man/man8/umount.fuse.ftps.8.gz"

# shellcheck disable=SC2086
for file in "$bash" "$fish" $zsh "$entry"; do mkdir -p "${file%/*}"; done
"$binary" completions bash >"$bash"
"$binary" completions fish >"$fish"
for file in $zsh; do "$binary" completions zsh >"$file"; done

install -m 644 "$here/packaging/desktop/ftpsfs.desktop" "$entry"
install -m 644 "$here/README.md" "$doc/README.md"
install -m 644 "$here"/packaging/systemd/* "$doc/examples/"
chmod 755 "$etc"
# It may have been written to already.
[ -e "$etc/example.cred" ] || install -m 600 "$here/packaging/etc/example.cred" "$etc/example.cred"

# Packages leave this to the package manager.
if [ -z "$destdir" ] && command -v update-desktop-database >/dev/null 2>&1; then
    update-desktop-database -q "$share/applications" || true
fi
if [ -z "$destdir" ] && ! command -v fusermount3 >/dev/null 2>&1; then
    echo "Ordinary users need fusermount3 to mount: install the package fuse3." >&2
fi
