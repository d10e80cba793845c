"""manager.py thunar|nautilus: what a person does in a file manager on a mount of SOURCE at PLACE, and that it goes well.

The mount is made here, by the user. SERVED is the server's own folder: what has arrived is looked up there.
"""

import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from gi.repository import GLib

import desk
from desk import call, keys, picture, press, sees, types, until, window

HOME, PLACE, SERVED = (Path(os.environ[name]) for name in ("HOME", "PLACE", "SERVED"))
MIB = 1 << 20
# How the file managers write the size of archive.tar, 60 MiB.
SIZES = ("62.9 MB", "60.0 MiB")
# A program may show that it has written what the mount has taken and the server has not: 16 MiB, and what is on its way.
LEAD = 26 * MIB
# Nobody may wait longer for a window or a listing while a copy runs, seconds.
PATIENCE = 2.0


class Thunar:
    """Its methods on the bus do what its menus do, with the same progress."""

    SHOWS_PROGRESS = True

    def method(self, name, signature, *arguments, of="org.xfce.FileManager"):
        # Every method takes a display and what started it in the end.
        signature = f"({signature}ss)"
        arguments = (*arguments, os.environ["DISPLAY"], "")
        call("org.xfce.FileManager", "/org/xfce/FileManager", of, name, signature, *arguments, waits=name != "RenameFile")

    def thumbnails(self, photo):
        """What it reads of a photo, at most: Exif has a small copy of it."""
        return 0

    def start(self):
        until("Thunar", lambda: call("org.xfce.FileManager", "/org/xfce/FileManager", "org.xfce.Trash", "QueryTrash", "()"))

    def show(self, folder):
        self.method("DisplayFolder", "s", folder.as_uri())
        return window("--name", f"^{folder.name} ")

    def details(self):
        keys("ctrl+2")

    def open(self, path):
        self.method("Launch", "s", path.as_uri())

    def copy(self, path, into):
        self.method("CopyInto", "sass", str(HOME), [path.as_uri()], into.as_uri())

    def rename(self, path, name):
        self.method("RenameFile", "s", path.as_uri())
        window("--name", "Rename")
        keys("ctrl+a")
        types(name)
        keys("Return")

    def trash(self, path):
        self.method("MoveToTrash", "as", [path.as_uri()], of="org.xfce.Trash")

    def restore(self, path):
        self.method("DisplayTrash", "", of="org.xfce.Trash")
        window("--name", "^Trash ")
        until("the trash can", lambda: sees(path.name))
        keys("ctrl+a")
        press("Restore Selected Items")

    def create_folder(self, path):
        self.show(path.parent)
        keys("ctrl+shift+n")
        window("--name", "New Folder")
        keys("ctrl+a")
        types(path.name)
        keys("Return")


class Nautilus:
    # It has one, but behind a button.
    SHOWS_PROGRESS = False

    def thumbnails(self, photo):
        """gdk-pixbuf reads everything, also what comes behind the picture."""
        return photo.stat().st_size

    def method(self, name, signature, *arguments):
        path = "/org/gnome/Nautilus/FileOperations2"
        call("org.gnome.Nautilus", path, "org.gnome.Nautilus.FileOperations2", name, signature, *arguments, {})

    def start(self):
        set_to = ["gsettings", "set"]
        subprocess.run([*set_to, "org.gnome.nautilus.preferences", "default-folder-viewer", "list-view"])
        subprocess.run([*set_to, "org.gnome.desktop.interface", "enable-animations", "false"])

    def show(self, folder):
        subprocess.Popen(["nautilus", "--new-window", folder.as_uri()])
        return window("--name", f"{folder.name}")

    def details(self):
        pass

    def open(self, path):
        subprocess.Popen(["nautilus", "--select", path.as_uri()])
        time.sleep(3)
        window("--name", f"{path.parent.name}")
        keys("Return")

    def copy(self, path, into):
        self.method("CopyURIs", "(assa{sv})", [path.as_uri()], into.as_uri())

    def rename(self, path, name):
        self.method("RenameURI", "(ssa{sv})", path.as_uri(), name)

    def trash(self, path):
        self.method("TrashURIs", "(asa{sv})", [path.as_uri()])

    def restore(self, path):
        self.method("Undo", "(a{sv})")

    def create_folder(self, path):
        self.method("CreateFolder", "(ssa{sv})", path.parent.as_uri(), path.name)


def mount():
    PLACE.mkdir()
    subprocess.run(["ftpsfs", "mount", os.environ["SOURCE"], PLACE, "-o", os.environ["OPTIONS"]], check=True)


def received():
    """Bytes of files and listings that came over the wire so far."""
    status = subprocess.run(["ftpsfs", "status", "--json", PLACE], capture_output=True, check=True).stdout
    return json.loads(status)["server"]["traffic"]["bytes_received"]


def progress():
    """What the progress bars on the screen say, 0 to 1."""
    shown = []
    try:
        for widget in desk.widgets():
            if "progress" in (widget.getRoleName() or ""):
                value = widget.queryValue()
                shown.append(value.currentValue / max(value.maximumValue, 1e-9))
    except GLib.Error:
        pass  # It has just been closed.
    return max(shown, default=None)


def same(a, b):
    """Whether two folders or files are the same, byte by byte."""
    if a.is_dir():
        names = sorted(path.name for path in a.iterdir())
        return names == sorted(path.name for path in b.iterdir()) and all(same(a / name, b / name) for name in names)
    return b.exists() and filecmp.cmp(a, b, shallow=False)


def look_around(manager):
    before = received()
    manager.show(PLACE)
    time.sleep(2)
    picture("1-icons")
    manager.details()
    until("the names", lambda: sees("readme.txt", "documents", "archive.tar", "photo.jpg"))
    until("the sizes", lambda: any(sees(size) for size in SIZES))
    # Kinds of files are found out by their beginnings, and pictures are shown small.
    until("a small copy of the photo", lambda: list((HOME / ".cache/thumbnails").glob("[lnx]*/*.png")))
    time.sleep(3)
    picture("1-folder")
    fetched = received() - before
    whole = sum(path.stat().st_size for path in SERVED.iterdir() if path.is_file())
    print(f"the window took {fetched / MIB:.2f} MiB of {whole / MIB:.0f} MiB of files")
    assert fetched < 4 * MIB + manager.thumbnails(SERVED / "photo.jpg"), f"{fetched} bytes for looking at a folder"


def open_text(manager):
    manager.open(PLACE / "readme.txt")
    until("the text", lambda: sees("This file came over FTPS."))
    picture("2-text")
    window("--class", "mousepad")
    keys("ctrl+q")


def copy_out(manager):
    manager.copy(PLACE / "documents", HOME / "local")
    until("the copy", lambda: same(SERVED / "documents", HOME / "local/documents"))


def copy_in(manager):
    """A folder, with a file that is large for this server: its progress is true, and nothing freezes meanwhile."""
    big = HOME / "local/folder/big.bin"
    size = big.stat().st_size
    manager.copy(big.parent, PLACE)
    waits, lies, shown = [], [], []
    until("the upload to begin", lambda: (PLACE / "folder").exists())
    finished = SERVED / "folder/big.bin"
    end = time.monotonic() + 90
    while not (finished.exists() and finished.stat().st_size == size) and time.monotonic() < end:
        waits.append(desk.answers_within())
        there = max((path.stat().st_size for path in (SERVED / "folder").glob(".ftpsfs-*")), default=None)
        part = progress()
        if part is not None and there is not None:
            shown.append(part)
            if part * size > there + LEAD:
                lies.append((part, there))
            if len(shown) == 4:
                picture("3-copy")
        time.sleep(0.1)
    until("the copy", lambda: same(HOME / "local/folder", SERVED / "folder"))
    print(f"progress: {len(shown)} looks, {[round(part, 2) for part in shown]}")
    print(f"the longest wait while it ran: {max(waits)[0]:.2f} s for {max(waits)[1]}")
    assert not lies, f"shown and on the server: {lies}"
    assert not manager.SHOWS_PROGRESS or (len(shown) >= 3 and shown[0] < 0.9), shown
    assert max(waits)[0] < PATIENCE, sorted(waits)[-5:]


def change(manager):
    manager.create_folder(PLACE / "fresh")
    until("the folder", lambda: (SERVED / "fresh").is_dir())
    manager.rename(PLACE / "letter.txt", "renamed.txt")
    until("the new name", lambda: (SERVED / "renamed.txt").exists() and not (SERVED / "letter.txt").exists())
    manager.trash(PLACE / "renamed.txt")
    # Only the server's own user and we can enter it.
    trash = PLACE / f".Trash-{os.getuid()}"
    until("the trash", lambda: (trash / "files/renamed.txt").exists() and not (SERVED / "renamed.txt").exists())
    listed = subprocess.run(["gio", "trash", "--list"], capture_output=True, text=True).stdout
    assert "renamed.txt" in listed, listed
    picture("4-changed")
    manager.restore(PLACE / "renamed.txt")
    until("what was in the trash", lambda: (SERVED / "renamed.txt").exists())
    assert (SERVED / "renamed.txt").read_text() == "Dear reader,\n"
    assert not list((trash / "info").iterdir())


def prepare():
    (HOME / "local/folder/inner").mkdir(parents=True)
    (HOME / "local/folder/big.bin").write_bytes(os.urandom(MIB) * 60)
    for number in range(10):
        (HOME / f"local/folder/inner/{number}.txt").write_text(f"{number}\n" * 500)
    (HOME / ".config/tumbler").mkdir(parents=True, exist_ok=True)
    # Thunar's other ways to a small copy of a photo, by gdk-pixbuf, read everything, as Nautilus does.
    others = "".join(f"[{name}Thumbnailer]\nDisabled=true\n" for name in ("Pixbuf", "Desktop"))
    (HOME / ".config/tumbler/tumbler.rc").write_text(others)
    (HOME / ".config/mimeapps.list").write_text("[Default Applications]\ntext/plain=org.xfce.mousepad.desktop\n")


def main():
    manager = {"thunar": Thunar, "nautilus": Nautilus}[sys.argv[1]]()
    prepare()
    mount()
    manager.start()
    for step in (look_around, open_text, copy_out, copy_in, change):
        began = time.monotonic()
        step(manager)
        print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
    pending = subprocess.run(["ftpsfs", "status", PLACE], capture_output=True, text=True, check=True).stdout
    assert "pending uploads: none" in pending, pending


main()
