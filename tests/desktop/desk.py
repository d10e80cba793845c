"""What a person at a screen does and sees: looks for text in windows, presses keys, takes pictures. Knows no file manager."""

import os
import subprocess
import sys
import time

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402
import pyatspi  # noqa: E402


def until(what, found, patience=30.0):
    """The first true value of found(), asked again and again."""
    end = time.monotonic() + patience
    while True:
        try:
            value = found()
        except (GLib.Error, OSError):
            value = None  # The program is busy, or what is looked at is not there yet.
        if value:
            return value
        if time.monotonic() > end:
            picture("in-vain")
            sys.exit(f"waited in vain for {what}; on the screen: {sorted(texts())[:80]}")
        time.sleep(0.1)


def widgets(node=None, depth=0):
    """Every widget of every window, but for what goes away meanwhile."""
    if node is None:
        node = pyatspi.Registry.getDesktop(0)
    try:
        children = [child for child in node if child is not None]
    except GLib.Error:
        return
    for child in children if depth < 40 else ():
        yield child
        yield from widgets(child, depth + 1)


def texts():
    """Every text on the screen."""
    found = set()
    for widget in widgets():
        for say in (lambda: widget.name, lambda: widget.queryText().getText(0, -1)):
            try:
                text = say()
            except Exception:  # pyatspi's own: it has no text, or is gone by now
                continue
            if text:
                found.add(text.replace("\xa0", " "))
    return found


def sees(*wanted):
    """Whether all of that stands somewhere on the screen, as a text or a part of one."""
    everything = "\n".join(texts())
    return all(text in everything for text in wanted)


def sees_in_thunar(folder):
    """Whether Thunar shows a folder's content: its status line tells of all of it, or of what is under the pointer."""
    return sees(f"{folder} - Thunar") and (sees(" bytes") or sees("|  folder"))


def picture(name):
    time.sleep(0.5)  # Windows are painted after they are there.
    subprocess.run(["import", "-window", "root", f"{os.environ['HOME']}/{name}.png"], check=True)


def keys(*names):
    """Presses keys in the window that has the focus."""
    for name in names:
        subprocess.run(["xdotool", "key", "--clearmodifiers", name], check=True)
        time.sleep(0.15)


def press(name):
    """Presses the button of that name, of several the one that can be pressed."""
    ready = (pyatspi.STATE_SENSITIVE, pyatspi.STATE_SHOWING)
    for widget in widgets():
        is_button = widget.name == name and "button" in widget.getRoleName()
        if is_button and all(widget.getState().contains(state) for state in ready):
            widget.queryAction().doAction(0)
            return
    sys.exit(f"there is no button {name}")


def types(text):
    subprocess.run(["xdotool", "type", "--delay", "20", text], check=True)


def window(*search, patience=30.0):
    """The number of a window that xdotool finds; it gets the focus."""

    def find():
        command = ["xdotool", "search", "--onlyvisible", *search]
        return subprocess.run(command, capture_output=True, text=True).stdout.split()

    number = until(f"a window {search}", find, patience)[-1]
    subprocess.run(["xdotool", "windowactivate", "--sync", number], timeout=20)
    return number


def call(name, path, interface, method, signature, *arguments, waits=True):
    """A method of a program on the session bus. One that shows a dialog answers when that is closed."""
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)
    values = GLib.Variant(signature, arguments)
    if waits:
        bus.call_sync(name, path, interface, method, values, None, 0, 30_000, None)
    else:
        bus.call(name, path, interface, method, values, None, 0, 30_000, None, None)
        bus.flush_sync()
    return True


def answers_within():
    """How long it takes to stat and list the mount and to have each window say where it is: what a person waits for, seconds."""
    waits = []

    def timed(what, work):
        began = time.monotonic()
        work()
        waits.append((time.monotonic() - began, what))

    place = os.environ["PLACE"]
    timed("stat", lambda: os.stat(f"{place}/readme.txt"))
    timed("ls", lambda: os.listdir(f"{place}/documents"))
    timed("df", lambda: os.statvfs(place))
    try:
        for application in pyatspi.Registry.getDesktop(0):
            for frame in application or ():
                timed("window", lambda: frame.queryComponent().getExtents(pyatspi.DESKTOP_COORDS))
    except GLib.Error:
        pass  # A window has just been closed.
    return max(waits)
