"""places.py: a line of fstab with x-gvfs-show and x-gvfs-name has a place in the file manager's sidebar, by that name."""

import subprocess

from desk import keys, picture, sees, sees_in_thunar, types, until, window


def main():
    listed = subprocess.run(["gio", "mount", "-l"], capture_output=True, text=True, check=True).stdout
    assert "Mount(0): Company Files -> file:///mnt/company" in listed, listed
    subprocess.Popen(["thunar", "/"])
    window("--name", "Thunar")
    until("the place", lambda: sees("Company Files"))
    picture("1-places")
    keys("ctrl+l")
    types("/mnt/company")
    keys("Return")
    until("what the server has", lambda: sees_in_thunar("company"))
    picture("2-inside")


main()
