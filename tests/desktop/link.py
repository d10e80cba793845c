"""link.py: an ftps:// link is opened by the desktop's own means, xdg-open, with real dialogs, on the real server at SOURCE."""

import os
import subprocess
import sys
from pathlib import Path

from desk import keys, picture, press, sees, sees_in_thunar, types, until, window

HOME, PORT = Path(os.environ["HOME"]), os.environ["PORT"]
PASSWORD = os.environ["PASSWORD"]
LINK = f"ftps://ftpsfs@localhost:{PORT}/documents"


def main():
    entries = HOME / ".local/share/applications"
    entries.mkdir(parents=True)
    program = Path(sys.argv[0]).parent
    (entries / "ftpsfs.desktop").write_text((program / "ftpsfs.desktop").read_text())
    subprocess.run(["xdg-mime", "default", "ftpsfs.desktop", "x-scheme-handler/ftps"], check=True)
    subprocess.run(["xdg-mime", "default", "thunar.desktop", "inode/directory"], check=True)

    opening = subprocess.Popen(["xdg-open", LINK])
    window("--name", "^ftpsfs$")
    until("the question", lambda: sees("Password for ftpsfs@localhost:"))
    picture("1-password")
    # Names and passwords may have what a dialog would take for something of its own.
    types("wrong\\n_&<b>")
    keys("Return")
    until("what the certificate says", lambda: sees("It is not certain that this is localhost", "sha256:", "Trust it"))
    picture("2-certificate")
    window("--name", "^ftpsfs$")
    press("Trust it")
    until("the second question", lambda: sees("The server refuses: 530", "Password for ftpsfs@localhost:"))
    picture("3-again")
    window("--name", "^ftpsfs$")
    types(PASSWORD)
    keys("Return")
    until("the folder", lambda: sees_in_thunar("documents"))
    window("--name", "^documents ")
    picture("4-folder")
    # Here xdg-open ends with the file manager.
    again = subprocess.Popen(["xdg-open", LINK.replace("/documents", "")])
    until("the server's root", lambda: sees_in_thunar(f"ftpsfs@localhost:{PORT}"))
    assert opening.poll() in (None, 0) and again.poll() in (None, 0)
    assert not sees("Password for")
    mounts = [line for line in open("/proc/mounts") if " fuse.ftps " in line]
    assert len(mounts) == 1, mounts

    # An error is a dialog as well.
    failing = subprocess.Popen(["xdg-open", "ftps://localhost:1/"])
    until("the error", lambda: sees("cannot connect to"))
    picture("5-error")
    window("--name", "^ftpsfs$")
    keys("Return")
    assert failing.wait(30) != 0
    subprocess.run(["thunar", "--quit"], check=True)
    subprocess.run(["ftpsfs", "umount", mounts[0].split()[1].replace("\\040", " ")], check=True)


main()
