"""terminal.py PICTURE PASSWORD COMMAND...: runs the commands in a shell on a terminal, types the password where one is asked for, and
draws what stands on the screen as an SVG."""

import html
import os
import pty
import re
import select
import sys

COLUMNS = 112
COLOURS = {30: "#555", 31: "#f66", 32: "#6c6", 33: "#dc6", 34: "#69f", 35: "#c7c", 36: "#6cc", 37: "#ddd", 90: "#888"}


def run(command, password):
    """What a command writes to its terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES="40", LC_ALL="C.UTF-8")
        os.execvp("sh", ["sh", "-c", command])
    said, typed = b"", False
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break  # How a terminal tells that everybody has left.
        if not part:
            break
        said += part
        if b"Password" in said and not typed:
            os.write(terminal, password.encode() + b"\n")
            typed = True
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"{command}: {status}\n{said.decode()}")
    return said.decode().replace("\r\n", "\n").rstrip("\n")


def spans(line):
    """The parts of a line with their looks: the ECMA-48 sequences for colours are understood, all others dropped."""
    bold, dim, colour = False, False, None
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z])", line):
        if not part.startswith("\x1b"):
            if part:
                yield part, bold, dim, colour
            continue
        for code in (int(number or 0) for number in part[2:-1].split(";")) if part.endswith("m") else ():
            if code == 0:
                bold, dim, colour = False, False, None
            elif code == 1:
                bold = True
            elif code == 2:
                dim = True
            elif code in COLOURS:
                colour = COLOURS[code]
            elif code == 39:
                colour = None


def wrapped(line):
    """A line in pieces that fit."""
    pieces, width = [[]], 0
    for text, *looks in spans(line):
        while text:
            room = COLUMNS - width
            pieces[-1].append((text[:room], *looks))
            width += len(text[:room])
            text = text[room:]
            if text:
                pieces.append([])
                width = 0
    return pieces


def draw(lines):
    height, rows = 18, []
    for number, pieces in enumerate(lines):
        parts = []
        for text, bold, dim, colour in pieces:
            looks = f' fill="{colour}"' if colour else ""
            looks += ' font-weight="bold"' if bold else ""
            looks += ' opacity="0.6"' if dim else ""
            parts.append(f"<tspan{looks}>{html.escape(text)}</tspan>")
        rows.append(f'<text x="14" y="{number * height + 28}" xml:space="preserve">{"".join(parts)}</text>')
    size = f'width="{COLUMNS * 8.43 + 28:.0f}" height="{len(lines) * height + 28}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" '
        f'font-size="14" fill="#ddd">\n<rect width="100%" height="100%" rx="8" fill="#1e2127"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


def main():
    picture, password, *commands = sys.argv[1:]
    lines = []
    for command in commands:
        lines.append([("$ ", False, True, None), (command, True, False, None)])
        for line in run(command, password).split("\n"):
            lines.extend(wrapped(line) if line else [])
    with open(picture, "w", encoding="utf-8") as file:
        file.write(draw(lines))


main()
