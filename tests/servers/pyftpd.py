"""pyftpdlib over TLS, explicit or implicit, with protection demanded on both connections."""

import argparse
import logging
import _strptime  # noqa: F401  (MFMT needs it, and after setuid it may be out of reach)
import os

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

arguments = argparse.ArgumentParser()
for name in ("address", "root", "user", "password", "certificate", "key"):
    arguments.add_argument("--" + name, required=True)
for name in ("port", "passive-first", "passive-last", "max-clients", "uid"):
    arguments.add_argument("--" + name, type=int, required=True)
arguments.add_argument("--implicit", action="store_true")
arguments.add_argument("--plain", action="store_true", help="no TLS at all")
options = arguments.parse_args()


class Implicit(TLS_FTPHandler):
    """MS-FTPS 3.2.5.1: TLS at once, PBSZ and PROT taken as received, then the greeting."""

    def handle(self):
        self._pbsz = True
        self._prot = True
        self.secure_connection(self.ssl_context)
        super().handle()


handler = FTPHandler if options.plain else Implicit if options.implicit else TLS_FTPHandler
if not options.plain:
    handler.certfile = options.certificate
    handler.keyfile = options.key
    handler.tls_control_required = True
    handler.tls_data_required = True

authorizer = DummyAuthorizer()
authorizer.add_user(options.user, options.password, options.root, perm="elradfmwMT")
handler.authorizer = authorizer
handler.passive_ports = range(options.passive_first, options.passive_last + 1)
handler.banner = "test"
# A failed login waits for three seconds by default, which only makes tests slow.
handler.auth_failed_timeout = 0
logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(message)s")

server = FTPServer((options.address, options.port), handler)
server.max_cons = options.max_clients
os.setgid(options.uid)
os.setuid(options.uid)
server.serve_forever()
