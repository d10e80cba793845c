"""One TCP connection, clear or under TLS, on ssl.MemoryBIO: what is written together leaves
together, TLS records are read one by one, and close_notify is a thing that is seen and sent.
Knows no FTP."""

import select
import socket
import ssl
import time

HEADER = 5


class Mismatch(Exception):
    """The other side did not do what the contract demands."""


class Wire:
    patience = 10.0  # How long anything that is due may take, in seconds.

    def __init__(self, sock):
        self.sock = sock
        self.tls = None
        self.raw = b""  # received, not yet looked at
        self.text = b""  # clear bytes, ready to be read
        self.fin = False
        self.closed_by_peer = False  # its close_notify came
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Reading.

    def receive(self, wait=None):
        """Takes what the socket has. False where it has nothing for that long."""
        wait = self.patience if wait is None else wait
        if not select.select([self.sock], [], [], wait)[0]:
            return False
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.fin = self.fin or not data
        self.raw += data
        return True

    def record(self):
        """The next TLS record, taken off what was received; None where it is not whole."""
        if self.raw and not 20 <= self.raw[0] <= 24:
            raise Mismatch(f"expected a TLS record, got {self.raw[:80]!r}")
        if len(self.raw) < HEADER:
            return None
        length = HEADER + int.from_bytes(self.raw[3:HEADER], "big")
        if len(self.raw) < length:
            return None
        record, self.raw = self.raw[:length], self.raw[length:]
        return record

    def next_record(self, wait=None):
        deadline = time.monotonic() + (self.patience if wait is None else wait)
        while True:
            record = self.record()
            if record is not None:
                return record
            if self.fin:
                raise Mismatch("the connection ended where a TLS record was due")
            left = deadline - time.monotonic()
            if left <= 0 or not self.receive(left):
                raise Mismatch("no TLS record came")

    def read(self, wait=None):
        """Some clear bytes; b"" at the end: FIN, or under TLS close_notify."""
        deadline = time.monotonic() + (self.patience if wait is None else wait)
        while not self.text:
            if self.tls:
                try:
                    self.text = self.tls.read(65536)
                    self.closed_by_peer = not self.text
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:  # So it is once this side's close_notify went.
                    self.closed_by_peer = True
                if self.text:
                    continue
                if self.closed_by_peer:
                    return b""
                self.incoming.write(self.next_record(max(0.0, deadline - time.monotonic())))
            elif self.raw:
                self.text, self.raw = self.raw, b""
            elif self.fin:
                return b""
            elif not self.receive(max(0.0, deadline - time.monotonic())):
                raise Mismatch("nothing came")
        text, self.text = self.text, b""
        return text

    def line(self, wait=None):
        """A line without CRLF; None at the end."""
        line = b""
        while not line.endswith(b"\r\n"):
            more = self.read(wait)
            if not more:
                if line:
                    raise Mismatch(f"ended within the line {line!r}")
                return None
            line += more
            head, mark, rest = line.partition(b"\r\n")
            if mark:
                line, self.text = head + mark, rest + self.text
        return line[:-2].decode("utf-8", "surrogateescape")

    def is_silent(self, wait=0.2):
        """Whether nothing at all comes for a while."""
        return not self.raw and not self.text and not self.receive(wait)

    # Writing: prepare() collects, flush() sends all of it in one segment.

    def prepare(self, text):
        if isinstance(text, str):
            text = text.encode("utf-8", "surrogateescape")
        if self.tls:
            self.tls.write(text)
            return self.outgoing.read()
        return text

    def send(self, text):
        self.sock.sendall(self.prepare(text))

    # TLS up and down.

    def begin_tls(self, context, server_side=False, session=None):
        """Sets TLS up. For a client: gives its ClientHello, unsent."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.closed_by_peer = False
        # Clear bytes in front of a handshake stay where the handshake looks for them.
        self.raw, self.text = self.text + self.raw, b""
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, session=session
        )
        if server_side:
            return b""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def handshake(self, behind=b""):
        """Takes the handshake to its end; `behind` is application data that leaves in the same
        segment as the last flight (a server's)."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.next_record())
            except ssl.SSLError as e:
                raise Mismatch(f"the TLS handshake failed: {e}") from e
        if behind:
            self.tls.write(behind)
        self.sock.sendall(self.outgoing.read())

    def start_tls(self, context, server_side=False, session=None):
        self.sock.sendall(self.begin_tls(context, server_side, session))
        self.handshake()

    def close_notify(self):
        """This side's close_notify, unsent."""
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass  # The peer's is not there yet, or was the first.
        return self.outgoing.read()

    def await_close_notify(self, wait=None):
        """The peer's close_notify is due, and nothing before it. What lies behind it stays."""
        while not self.closed_by_peer:
            extra = self.read(wait)
            if extra:
                raise Mismatch(f"expected close_notify, got {extra!r}")
            if not self.closed_by_peer:
                raise Mismatch("expected close_notify, got the end of the connection")

    def leave_tls(self):
        """Both close_notifies went; what follows is clear."""
        self.tls = None

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass
