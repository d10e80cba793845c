"""A client that checks a server against MS-FTPS 3.2 and RFC 4217, one check after another."""

import hashlib
import socket
import ssl

from wire import Mismatch, Wire

FEATURES = [
    "211-Extended features supported:",
    " LANG EN*",
    " UTF8",
    " AUTH TLS;SSL;",
    " PBSZ",
    " PROT C;P;",
    " CCC",
    " HOST",
    " SIZE",
    " MDTM",
    " REST STREAM",
]


def run(args):
    checks = IMPLICIT if args.security == "implicit" else EXPLICIT
    for check in checks:
        try:
            check(args)
        except Mismatch as mismatch:
            raise Mismatch(f"{check.__name__} ({args.security}): {mismatch}") from mismatch
        except OSError as e:
            raise Mismatch(f"{check.__name__} ({args.security}): {e}") from e
        print(f"ok {check.__name__} ({args.security})", flush=True)


class Client:
    def __init__(self, args):
        self.args = args
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # The fingerprint decides.
        self.wire = self.connect(args.port)

    def connect(self, port):
        return Wire(socket.create_connection((self.args.host, port), Wire.patience))

    def start_tls(self):
        self.wire.start_tls(self.context)
        self.check_certificate()

    def check_certificate(self):
        found = hashlib.sha256(self.wire.tls.getpeercert(binary_form=True)).hexdigest()
        if found != self.args.fingerprint.removeprefix("sha256:"):
            raise Mismatch(f"the certificate is {found}")

    def reply(self, code, what="reply"):
        first = self.wire.line()
        if first is None:
            raise Mismatch(f"{what}: expected {code}, got the end")
        lines = [first]
        if first[3:4] == "-":
            while not lines[-1].startswith(first[:3] + " "):
                line = self.wire.line()
                if line is None:
                    raise Mismatch(f"{what}: a reply without end: {lines}")
                lines.append(line)
        if lines[-1][:4] != f"{code} ":
            raise Mismatch(f"{what}: expected {code}, got {lines}")
        return lines

    def ask(self, command, code):
        self.wire.send(command + "\r\n")
        return self.reply(code, command)

    def log_in(self):
        self.ask(f"USER {self.args.user}", 331)
        self.ask(f"PASS {self.args.password}", 230)

    def listing(self, protected=True):
        """NLST over a passive data connection; the names must be the expected ones."""
        port = int(self.ask("EPSV", 229)[0].split("|")[3])
        data = self.connect(port)
        self.ask("NLST", 150)
        if protected:
            data.start_tls(self.context, session=self.wire.tls and self.wire.tls.session)
        elif not data.receive():
            raise Mismatch("no clear data came")
        names = b""
        while True:
            more = data.read()
            if not more:
                break
            names += more
        if protected:
            if not data.closed_by_peer:
                raise Mismatch("the data connection ended without close_notify")
            data.sock.sendall(data.close_notify())
        data.close()
        self.reply(226, "NLST")
        found = names.decode().split("\r\n")
        missing = [name for name in self.args.expect if name not in found]
        if missing:
            raise Mismatch(f"the listing lacks {missing}: {found}")


def implicit(args):
    client = Client(args)
    client.start_tls()
    client.reply(220, "greeting")
    return client


def explicit(args, mechanism="TLS"):
    client = Client(args)
    client.reply(220, "greeting")
    client.ask(f"AUTH {mechanism}", 234)
    client.start_tls()
    return client


def protect(client):
    client.ask("PBSZ 0", 200)
    client.ask("PROT P", 200)


# Checks of an implicit server.


def greeting_comes_after_the_handshake(args):
    client = Client(args)
    if not client.wire.is_silent():
        raise Mismatch("the server spoke before TLS")
    client.start_tls()
    client.reply(220, "greeting")


def data_is_protected_without_pbsz_and_prot(args):
    client = implicit(args)
    client.log_in()
    client.listing()


def prot_c_clears_data_and_prot_p_protects_it_again(args):
    client = implicit(args)
    client.log_in()
    client.ask("PROT C", 200)
    client.listing(protected=False)
    client.ask("PROT P", 200)
    client.listing()


def ccc_and_auth_are_refused(args):
    client = implicit(args)
    for _ in range(2):
        client.ask("CCC", 534)
        client.ask("AUTH TLS", 503)
        client.ask("AUTH SSL", 503)
        client.log_in()
    client.listing()


def rein_begins_as_after_connect(args):
    client = implicit(args)
    client.log_in()
    client.ask("PROT C", 200)
    for _ in range(2):
        client.ask("REIN", 220)
        client.wire.await_close_notify()
        client.wire.sock.sendall(client.wire.close_notify())
        client.wire.leave_tls()
        if not client.wire.is_silent():
            raise Mismatch("the server spoke between TLS and TLS")
        client.start_tls()
        client.reply(220, "greeting after REIN")
        client.ask("PWD", 530)
        client.log_in()
        client.listing()


def rein_with_client_hello_right_behind_close_notify(args):
    """close_notify and ClientHello leave in one segment, before the server's close_notify was
    looked at; the second time REIN itself is in that segment too."""
    client = implicit(args)
    client.log_in()
    wire = client.wire
    for rein_too in [False, True]:
        segment = wire.prepare("REIN\r\n") if rein_too else b""
        if not rein_too:
            client.ask("REIN", 220)
        # What the old TLS still receives is read by it; the new one's ClientHello leaves now.
        segment += wire.close_notify()
        fresh = Wire(wire.sock)
        segment += fresh.begin_tls(client.context)
        wire.sock.sendall(segment)
        if rein_too:
            client.reply(220, "REIN")
        wire.await_close_notify()
        fresh.raw, wire = wire.raw, fresh
        client.wire = wire
        wire.handshake()
        client.check_certificate()
        client.reply(220, "greeting after REIN")
        client.log_in()
        client.listing()


def features_are_ms_ftps_text(args):
    client = implicit(args) if args.security == "implicit" else explicit(args)
    for _ in range(2):
        lines = client.ask("FEAT", 211)
        if lines[: len(FEATURES)] != FEATURES or lines[-1] != "211 END":
            raise Mismatch(f"FEAT: {lines}")
        client.log_in()


# Checks of an explicit server.


def auth_tls_after_the_greeting(args):
    client = explicit(args)
    client.log_in()
    protect(client)
    client.listing()


def auth_ssl_is_auth_tls(args):
    client = explicit(args, "SSL")
    client.log_in()
    protect(client)
    client.listing()


def auth_inside_tls_is_refused(args):
    client = explicit(args)
    client.ask("AUTH TLS", 503)
    client.ask("AUTH SSL", 503)
    client.log_in()


def ccc_outside_tls_is_533_and_inside_clears(args):
    client = Client(args)
    client.reply(220, "greeting")
    client.ask("CCC", 533)
    client.ask("AUTH TLS", 234)
    client.start_tls()
    client.log_in()
    protect(client)
    client.ask("CCC", 200)
    # A command right behind close_notify, in one segment, is a clear one.
    client.wire.sock.sendall(client.wire.close_notify() + b"NOOP\r\n")
    client.wire.await_close_notify()
    client.wire.leave_tls()
    client.reply(200, "NOOP after CCC")
    client.listing()


def pbsz_and_prot_keep_their_order(args):
    client = explicit(args)
    client.log_in()
    client.ask("PROT P", 503)
    client.ask("PBSZ 0", 200)
    client.ask("PROT X", 504)
    client.ask("PROT S", 536)
    client.ask("PROT C", 200)
    client.listing(protected=False)
    client.ask("PROT P", 200)
    client.listing()


def rein_is_clear_until_auth(args):
    client = explicit(args)
    client.log_in()
    protect(client)
    for eager in [False, True]:
        client.ask("REIN", 220)
        # Second time: AUTH right behind close_notify, in one segment.
        segment = client.wire.close_notify() + (b"AUTH SSL\r\n" if eager else b"")
        client.wire.await_close_notify()
        client.wire.sock.sendall(segment)
        client.wire.leave_tls()
        if not eager:
            if not client.wire.is_silent():
                raise Mismatch("the server greeted again after REIN")
            client.ask("PWD", 533)
            client.wire.send("AUTH TLS\r\n")
        client.reply(234, "AUTH after REIN")
        client.start_tls()
        client.ask("PWD", 530)
        client.log_in()
        protect(client)
        client.listing()


IMPLICIT = [
    greeting_comes_after_the_handshake,
    data_is_protected_without_pbsz_and_prot,
    prot_c_clears_data_and_prot_p_protects_it_again,
    ccc_and_auth_are_refused,
    features_are_ms_ftps_text,
    rein_begins_as_after_connect,
    rein_with_client_hello_right_behind_close_notify,
]
EXPLICIT = [
    auth_tls_after_the_greeting,
    auth_ssl_is_auth_tls,
    auth_inside_tls_is_refused,
    ccc_outside_tls_is_533_and_inside_clears,
    pbsz_and_prot_keep_their_order,
    features_are_ms_ftps_text,
    rein_is_clear_until_auth,
]
