"""A small FTPS server by MS-FTPS and RFC 4217, or with one deviation that real servers have, and
the rules that its clients must keep. Read-only, one thread a connection."""

import dataclasses
import socket
import ssl
import sys
import threading
import time

from wire import Mismatch, Wire

TREE = {
    "/": None,
    "/hello": b"0123456789",
    "/empty": b"",
    "/large": bytes(range(256)) * 8192,
    "/sub": None,
    "/sub/inner": b"inner",
}
FEATURES = (
    "211-Extended features supported:\r\n LANG EN*\r\n UTF8\r\n AUTH TLS;SSL;\r\n PBSZ\r\n"
    " PROT C;P;\r\n CCC\r\n HOST\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n"
    " MLST type*;size*;modify*;\r\n EPSV\r\n211 END"
)
LISTINGS = ("LIST", "NLST", "MLSD")
TRANSFERS = LISTINGS + ("RETR", "STOR", "APPE")
ANYTIME = "AUTH PBSZ PROT CCC REIN QUIT NOOP FEAT SYST OPTS LANG HOST CLNT".split()
ACCEPT = "234 start TLS"


@dataclasses.dataclass
class Scenario:
    """What the server does, and which rules its client keeps."""

    security: str
    rules: list
    greeting: list = dataclasses.field(default_factory=lambda: ["220 peer ready"])
    auth: dict = dataclasses.field(default_factory=lambda: {"TLS": ACCEPT, "SSL": ACCEPT})
    # Clear text behind the reply that accepts AUTH, in its segment.
    injected: str = ""
    rein: list = dataclasses.field(default_factory=lambda: ["220 ready for a new user"])
    rein_stops_tls: bool = True
    # Implicit, but data is refused ("522") or clear ("clear") until PBSZ 0 and PROT P came.
    needs_prot: str = ""
    prot: str = "200 level set"
    # Protected data ends with a FIN and no close_notify.
    data_close_notify: bool = True
    # The first transfers are refused so, after the handshake of their data connection.
    refusals: list = dataclasses.field(default_factory=list)
    # The first connection's EPSV and PASV are answered so.
    first_passive: str = ""
    # No session can be resumed: every handshake is a full one.
    tickets: bool = True
    # Commands that came along with the one that is answered are lost.
    one_by_one: bool = False


@dataclasses.dataclass
class Event:
    connection: int
    # "<" from the client, ">" to it, "!" what happened.
    who: str
    tls: bool
    text: str

    def verb(self):
        return self.text.split(" ")[0].upper() if self.who == "<" else ""

    def __str__(self):
        return f"{self.connection} {'tls' if self.tls else 'clear':5} {self.who} {self.text}"


# Rules: each raises Mismatch.


def demand(condition, text):
    if not condition:
        raise Mismatch(text)


def sent(events, *verbs):
    return [event for event in events if event.verb() in verbs]


def happened(events, text):
    return [event for event in events if event.who == "!" and event.text == text]


def connections(events):
    numbers = sorted({event.connection for event in events})
    return [[event for event in events if event.connection == n] for n in numbers]


def passwords_under_tls(events):
    demand(
        not [event for event in sent(events, "USER", "PASS", "ACCT") if not event.tls],
        "a login was sent in the clear",
    )


def logs_in(events):
    demand(happened(events, "logged in"), "the client never logged in")


def moves_data_protected(events):
    demand(happened(events, "protected data"), "no protected data connection worked")
    demand(not happened(events, "clear data"), "a data connection was clear")


def implicit_sends_no_pbsz_prot_auth_ccc(events):
    bad = sent(events, "PBSZ", "PROT", "AUTH", "CCC")
    demand(not bad, f"an implicit client sent {bad and bad[0].text}")


def explicit_sends_pbsz_and_prot(events):
    for connection in connections(events):
        if sent(connection, *TRANSFERS):
            order = [event.verb() for event in sent(connection, "PBSZ", "PROT", *TRANSFERS)]
            demand(order[:2] == ["PBSZ", "PROT"], f"explicit: PBSZ, PROT, then data; got {order}")


def prot_only_once_shown_needed(events):
    moved = sent(events, *TRANSFERS)
    demand(moved, "no transfer was tried")
    demand(moved[0].verb() in LISTINGS, f"the first transfer is a listing, not {moved[0].text}")
    needed = happened(events, "needs PROT")
    demand(needed, "the server never showed that it needs PROT")
    asked = sent(events, "PBSZ", "PROT")
    demand(asked, "PBSZ and PROT never came")
    first = events.index(needed[0])
    demand(events.index(asked[0]) > first, "PBSZ or PROT before the server showed its need")
    demand(not happened(events, "clear data taken"), "the client took clear data")


def reinitializes(events):
    for connection in connections(events):
        if sent(connection, "REIN"):
            happenings = [event.text for event in connection if event.who == "!"]
            wanted = ["TLS up", "logged in", "TLS down", "TLS up", "logged in"]
            rest = iter(happenings)
            if all(text in rest for text in wanted):
                return
            raise Mismatch(f"after REIN: expected {wanted} on one connection, got {happenings}")
    raise Mismatch("REIN never came")


def replaces_the_connection_after_rein(events):
    rein = sent(events, "REIN")
    demand(rein, "REIN never came")
    later = happened(events[events.index(rein[0]) :], "logged in")
    demand(
        [event for event in later if event.connection != rein[0].connection],
        "no login on another connection after REIN",
    )
    on_the_old = events[events.index(rein[0]) + 1 :]
    bad = [e for e in on_the_old if e.connection == rein[0].connection and e.who == "<"]
    demand(not [e for e in bad if e.verb() != "QUIT"], "the old connection was used further")


def tries_auth_tls_then_ssl(events):
    for connection in connections(events):
        order = [event.text.upper() for event in sent(connection, "AUTH")]
        demand(order == ["AUTH TLS", "AUTH SSL"], f"expected AUTH TLS, AUTH SSL; got {order}")


def gives_up_without_tls(events):
    demand(sent(events, "AUTH"), "AUTH never came")
    demand(not happened(events, "TLS up"), "TLS came up although it was refused")


def stops_at_injection(events):
    demand(sent(events, "AUTH"), "AUTH never came")
    demand(not happened(events, "TLS up"), "clear text waited, and the client went on into TLS")


def sends_nothing_after_421(events):
    demand(events, "no client came")
    bad = [event for event in events if event.who == "<" and event.verb() != "QUIT"]
    demand(not bad, f"after 421 came {bad and bad[0].text}")


def waits_for_each_reply(events):
    demand(not happened(events, "lost commands"), "commands came before the reply to the last")


def moves_no_data(events):
    demand(sent(events, "PROT"), "PROT never came")
    bad = sent(events, *TRANSFERS)
    demand(not bad, f"PROT P was refused, and yet came {bad and bad[0].text}")


ALWAYS = [passwords_under_tls]
WORKS = [*ALWAYS, logs_in, moves_data_protected]
IMPLICIT = [*WORKS, implicit_sends_no_pbsz_prot_auth_ccc]
EXPLICIT = [*WORKS, explicit_sends_pbsz_and_prot]
WAIT_220 = ["120 wait a moment", "220 peer ready"]
REIN_120 = ["120 wait a moment", "220 ready for a new user"]

SCENARIOS = {
    # The contract, with no demands on the client.
    "contract-implicit": Scenario("implicit", []),
    "contract-explicit": Scenario("explicit", []),
    "implicit": Scenario("implicit", IMPLICIT),
    "explicit": Scenario("explicit", EXPLICIT),
    "greeting-120": Scenario("implicit", IMPLICIT, greeting=WAIT_220),
    "greeting-120-explicit": Scenario("explicit", EXPLICIT, greeting=WAIT_220),
    "greeting-421": Scenario(
        "implicit", [sends_nothing_after_421], greeting=["421 too many users"]
    ),
    "greeting-421-explicit": Scenario(
        "explicit", [sends_nothing_after_421], greeting=["421 too many users"]
    ),
    "rein-implicit": Scenario("implicit", [*IMPLICIT, reinitializes]),
    "rein-explicit": Scenario("explicit", [*EXPLICIT, reinitializes]),
    "rein-120": Scenario("implicit", [*IMPLICIT, reinitializes], rein=REIN_120),
    "rein-refused": Scenario(
        "implicit",
        [*IMPLICIT, replaces_the_connection_after_rein],
        rein=["502 not implemented"],
        rein_stops_tls=False,
    ),
    "rein-421": Scenario(
        "implicit", [*IMPLICIT, replaces_the_connection_after_rein], rein=["421 closing"]
    ),
    # pyftpdlib: 230, and TLS stays up.
    "rein-keeps-tls": Scenario(
        "explicit",
        [*EXPLICIT, replaces_the_connection_after_rein],
        rein=["230 ready for a new user"],
        rein_stops_tls=False,
    ),
    "auth-ssl-only": Scenario(
        "explicit",
        [*EXPLICIT, tries_auth_tls_then_ssl],
        auth={"TLS": "500 unknown", "SSL": ACCEPT},
    ),
    "auth-ssl-504": Scenario(
        "explicit",
        [*EXPLICIT, tries_auth_tls_then_ssl],
        auth={"TLS": "504 unknown mechanism", "SSL": ACCEPT},
    ),
    "auth-refused": Scenario(
        "explicit",
        [*ALWAYS, gives_up_without_tls],
        auth={"TLS": "502 no", "SSL": "502 no"},
    ),
    "auth-534": Scenario(
        "explicit",
        [*ALWAYS, gives_up_without_tls],
        auth={"TLS": "534 policy", "SSL": "534 policy"},
    ),
    "auth-injection": Scenario(
        "explicit", [*ALWAYS, stops_at_injection], injected="220 injected\r\n"
    ),
    # IIS says who it is, and is said to lose commands; others may do so without a word.
    "one-by-one": Scenario("explicit", EXPLICIT, one_by_one=True),
    "one-by-one-implicit": Scenario("implicit", IMPLICIT, one_by_one=True),
    "one-by-one-iis": Scenario(
        "explicit",
        [*EXPLICIT, waits_for_each_reply],
        greeting=["220 Microsoft FTP Service"],
        one_by_one=True,
    ),
    "prot-refused": Scenario("explicit", [*ALWAYS, moves_no_data], prot="534 policy"),
    # vsftpd.
    "implicit-522": Scenario(
        "implicit", [*WORKS, prot_only_once_shown_needed], needs_prot="522"
    ),
    "implicit-clear-data": Scenario(
        "implicit", [*ALWAYS, logs_in, prot_only_once_shown_needed], needs_prot="clear"
    ),
    # ProFTPD counts its clients where they ask for a port.
    "busy-at-epsv": Scenario(
        "explicit", EXPLICIT, first_passive="530 Sorry, the maximum number of clients"
    ),
    "data-without-close-notify": Scenario("implicit", IMPLICIT, data_close_notify=False),
    # Pure-FTPd gives no TLS 1.3 tickets; a port that was taken, say, is no demand for one.
    "stray-425": Scenario("explicit", EXPLICIT, refusals=["425 not now"], tickets=False),
    "stray-522-implicit": Scenario(
        "implicit", WORKS, refusals=["522 not now"], tickets=False
    ),
}


def run(args):
    scenario = SCENARIOS[args.scenario]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.cert, args.key)
    if not scenario.tickets:
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    server = Server(scenario, context)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"port {listener.getsockname()[1]}", flush=True)
    threading.Thread(target=server.serve, args=[listener], daemon=True).start()
    sys.stdin.read()
    time.sleep(0.2)  # What the client sent last is still being read.
    events = list(server.events)
    for event in events:
        print(event)
    demand(not server.broken, "; ".join(server.broken))
    for rule in scenario.rules:
        rule(events)
    print(f"VERDICT ok ({args.scenario})", flush=True)


class Server:
    def __init__(self, scenario, context):
        self.scenario = scenario
        self.context = context
        self.events = []
        self.broken = []
        self.refusals = list(scenario.refusals)

    def serve(self, listener):
        number = 0
        while True:
            sock, _ = listener.accept()
            number += 1
            threading.Thread(target=self.attend, args=[number, sock], daemon=True).start()

    def attend(self, number, sock):
        session = Session(self, number, Wire(sock))
        try:
            session.run()
        except Mismatch as mismatch:
            self.broken.append(f"connection {number}: {mismatch}")
        except OSError as e:
            session.note("!", f"the connection broke: {e}")
        except Ended as ended:
            session.note("!", str(ended))
        finally:
            session.wire.close()


class Ended(Exception):
    """The connection ended, in a way that is the client's right."""


class Session:
    def __init__(self, server, number, wire):
        self.server = server
        self.scenario = server.scenario
        self.number = number
        self.wire = wire
        self.cleared = False
        self.reset()

    def reset(self):
        self.user = None
        self.logged_in = False
        self.pbsz = False
        self.level = ""
        self.folder = "/"
        self.offset = 0
        self.listener = None

    def note(self, who, text):
        self.server.events.append(Event(self.number, who, self.wire.tls is not None, text))

    def reply(self, text, behind=b""):
        for line in text.split("\r\n"):
            self.note(">", line)
        self.wire.sock.sendall(self.wire.prepare(text + "\r\n") + behind)

    def run(self):
        self.greet()
        while True:
            self.perform(self.command())

    def command(self):
        try:
            line = self.wire.line(600)
        except Mismatch as e:
            raise Ended(f"ended: {e}") from e
        if line is None:
            raise Ended("ended by the client")
        self.note("<", "PASS ****" if line.upper().startswith("PASS") else line)
        if self.scenario.one_by_one and self.wire.text:
            self.wire.text = b""
            self.note("!", "lost commands")
        return line

    def greet(self):
        if self.scenario.security == "implicit":
            self.start_tls(self.scenario.greeting[0])
            if not self.scenario.needs_prot:
                self.pbsz, self.level = True, "P"
        else:
            self.reply(self.scenario.greeting[0])
        self.say_the_rest(self.scenario.greeting)

    def say_the_rest(self, replies):
        for text in replies[1:]:
            if not self.wire.is_silent():
                raise Mismatch("the client spoke before the reply was complete")
            self.reply(text)
        if replies[-1].startswith("421"):
            self.wire.sock.sendall(self.wire.close_notify() if self.wire.tls else b"")
            while True:
                self.command()

    def start_tls(self, greeting=""):
        self.wire.begin_tls(self.server.context, server_side=True)
        try:
            self.wire.handshake((greeting + "\r\n").encode() if greeting else b"")
        except Mismatch as e:
            self.wire.tls = None
            raise Ended(f"TLS did not come up: {e}") from e
        self.note("!", "TLS up")
        if greeting:
            self.note(">", greeting)

    def perform(self, line):
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        if verb not in ANYTIME:
            if not self.wire.tls and (verb in ("USER", "PASS") or not self.cleared):
                return self.reply("533 AUTH first")
            if verb not in ("USER", "PASS") and not self.logged_in:
                return self.reply("530 log in first")
        handler = getattr(self, "do_" + verb.lower(), None)
        if handler:
            return handler(argument)
        if verb in LISTINGS:
            return self.transfer(verb, argument)
        return self.reply("502 not implemented")

    # Security.

    def do_auth(self, mechanism):
        if self.wire.tls:
            return self.reply("503 TLS is up")
        answer = self.scenario.auth.get(mechanism.upper(), "504 unknown mechanism")
        self.reply(answer, self.scenario.injected.encode() if answer == ACCEPT else b"")
        if answer == ACCEPT:
            self.reset()
            self.cleared = False
            self.start_tls()

    def do_pbsz(self, _):
        if not self.wire.tls and not self.cleared:
            return self.reply("503 AUTH first")
        self.pbsz = True
        self.reply("200 PBSZ=0")

    def do_prot(self, level):
        if not self.pbsz:
            return self.reply("503 PBSZ first")
        if level in ("S", "E"):
            return self.reply("536 not with TLS")
        if level not in ("C", "P"):
            return self.reply("504 unknown level")
        if self.scenario.prot.startswith("200"):
            self.level = level
        self.reply(self.scenario.prot)

    def do_ccc(self, _):
        if not self.wire.tls:
            return self.reply("533 clear already")
        if self.scenario.security == "implicit":
            return self.reply("534 stays under TLS")
        self.stop_tls("200 going clear")
        self.cleared = True

    def stop_tls(self, reply):
        """The reply and close_notify leave in one segment."""
        self.note(">", reply)
        segment = self.wire.prepare(reply + "\r\n")
        self.wire.sock.sendall(segment + self.wire.close_notify())
        self.wire.await_close_notify()
        self.wire.leave_tls()
        self.note("!", "TLS down")

    def do_rein(self, _):
        *first, last = self.scenario.rein
        for text in first:
            self.reply(text)
            if not self.wire.is_silent():
                raise Mismatch("the client spoke before the reply to REIN was complete")
        if last.startswith("421"):
            self.reply(last)
            return self.say_the_rest([last])
        if not self.scenario.rein_stops_tls:
            self.reply(last)
            if last.startswith("2"):
                self.reset()
            return None
        if self.wire.tls:
            self.stop_tls(last)
        else:
            self.reply(last)
        self.reset()
        self.cleared = False
        if self.scenario.security == "implicit":
            self.greet()
        return None

    def do_user(self, name):
        self.user, self.logged_in = name, False
        self.reply("331 password")

    def do_pass(self, _):
        if self.user is None:
            return self.reply("503 USER first")
        self.logged_in = True
        self.note("!", "logged in")
        self.reply("230 logged in")

    # Files.

    def path(self, argument):
        if argument.startswith("-a"):
            argument = argument[2:].lstrip()
        path = argument if argument.startswith("/") else f"{self.folder}/{argument}"
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))

    def facts(self, path, name):
        content = TREE[path]
        kind = "type=dir;" if content is None else f"type=file;size={len(content)};"
        return f"{kind}modify=20020717210715; {name}"

    def entries(self, path):
        base = path.rstrip("/") + "/"
        return [p for p in TREE if p != "/" and p.startswith(base) and "/" not in p[len(base) :]]

    def ls(self, path):
        content = TREE[path]
        kind, size = ("drwxr-xr-x", 4096) if content is None else ("-rw-r--r--", len(content))
        name = path.rsplit("/", 1)[1]
        return f"{kind}   1 0        0        {size:12} Jul 17  2002 {name}"

    def listing(self, verb, path):
        paths = self.entries(path) if TREE[path] is None else [path]
        names = [(p, p.rsplit("/", 1)[1]) for p in paths]
        if verb == "NLST":
            return [name for _, name in names]
        if verb == "MLSD":
            return [self.facts(p, name) for p, name in names]
        return [self.ls(p) for p in paths]

    def do_epsv(self, _):
        if self.number == 1 and self.scenario.first_passive:
            return self.reply(self.scenario.first_passive)
        self.listener = socket.create_server(("127.0.0.1", 0))
        return self.reply(f"229 passive (|||{self.listener.getsockname()[1]}|)")

    def do_pasv(self, _):
        if self.number == 1 and self.scenario.first_passive:
            return self.reply(self.scenario.first_passive)
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        return self.reply(f"227 passive (127,0,0,1,{port >> 8},{port & 255})")

    def do_retr(self, argument):
        content = TREE.get(self.path(argument))
        if content is None:
            return self.reply("550 no such file")
        offset, self.offset = self.offset, 0
        return self.transfer("RETR", argument, content[offset:])

    def transfer(self, verb, argument, content=None):
        path = self.path(argument)
        if path not in TREE:
            return self.reply("550 no such file")
        if content is None:
            content = "".join(line + "\r\n" for line in self.listing(verb, path)).encode()
        if self.listener is None:
            return self.reply("425 EPSV first")
        protected = self.level == "P"
        if not protected and self.scenario.needs_prot:
            self.note("!", "needs PROT")
        if self.scenario.needs_prot == "522" and not protected:
            return self.reply("522 PROT P first")
        listener, self.listener = self.listener, None
        listener.settimeout(Wire.patience)
        self.reply(f"150 {verb}")
        try:
            data = Wire(listener.accept()[0])
        except TimeoutError:
            return self.reply("425 no data connection")
        finally:
            listener.close()
        try:
            if protected:
                data.start_tls(self.server.context, server_side=True)
                if self.server.refusals:
                    data.sock.sendall(data.close_notify())
                    return self.reply(self.server.refusals.pop(0))
                segment = data.prepare(content)
                if self.scenario.data_close_notify:
                    segment += data.close_notify()
                data.sock.sendall(segment)
                data.sock.shutdown(socket.SHUT_WR)
                data.await_close_notify()
                self.note("!", "protected data")
            else:
                self.send_clear(data, content)
        except (Mismatch, OSError) as e:
            self.note("!", f"data connection: {e}")
            return self.reply("426 data connection broken")
        finally:
            data.close()
        return self.reply("226 done")

    def send_clear(self, data, content):
        """A server that sends in the clear does not look at what the client sends, but notes it
        here: a client that takes clear data sends nothing, a ClientHello least."""
        data.sock.sendall(content)
        data.sock.shutdown(socket.SHUT_WR)
        data.receive()
        if data.raw:
            self.note("!", f"the client answered clear data with {data.raw[:3]!r}")
        else:
            self.note("!", "clear data taken" if self.scenario.needs_prot else "clear data")

    def do_rest(self, offset):
        self.offset = int(offset)
        self.reply("350 noted")

    def do_size(self, argument):
        content = TREE.get(self.path(argument))
        self.reply("550 no such file" if content is None else f"213 {len(content)}")

    def do_mdtm(self, argument):
        known = self.path(argument) in TREE
        self.reply("213 20020717210715" if known else "550 no such file")

    def do_mlst(self, argument):
        path = self.path(argument)
        if path not in TREE:
            return self.reply("550 no such file")
        return self.reply(f"250-listing\r\n {self.facts(path, path)}\r\n250 end")

    def do_stat(self, argument):
        path = self.path(argument)
        if path not in TREE:
            return self.reply("550 no such file")
        lines = "".join(line + "\r\n" for line in self.listing("LIST", path))
        return self.reply(f"213-status\r\n{lines}213 end")

    def do_cwd(self, argument):
        path = self.path(argument)
        if TREE.get(path, b"") is not None:
            return self.reply("550 no such folder")
        self.folder = path
        return self.reply("250 done")

    def do_pwd(self, _):
        self.reply(f'257 "{self.folder}"')

    def do_feat(self, _):
        self.reply(FEATURES)

    def do_type(self, _):
        self.reply("200 fine")

    do_noop = do_opts = do_clnt = do_lang = do_type

    def do_host(self, _):
        self.reply("220 fine")

    def do_syst(self, _):
        self.reply("215 UNIX Type: L8")

    def do_quit(self, _):
        self.reply("221 goodbye")
        self.wire.sock.sendall(self.wire.close_notify() if self.wire.tls else b"")
        raise Ended("QUIT")
