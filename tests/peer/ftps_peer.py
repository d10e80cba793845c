#!/usr/bin/env python3
"""An independent peer that plays MS-FTPS both ways, sharing no code with ftpsfs.

  ftps_peer.py client --port P --security implicit|explicit --fingerprint HEX --expect NAME...
      checks a server against MS-FTPS 3.2 and RFC 4217; exit status 1 and a line that says
      MISMATCH where it differs.

  ftps_peer.py server --scenario NAME --cert FILE --key FILE
      serves a small tree, on a port that it prints first, in the way that the scenario says;
      when stdin ends it prints the transcript and a verdict on the client, exit status 1 where
      the client broke a rule. --list gives the scenarios, each with implicit or explicit.
"""

import argparse
import signal
import sys

import client_role
import server_role
from wire import Mismatch, Wire


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    roles = parser.add_subparsers(dest="role", required=True)

    client = roles.add_parser("client")
    client.add_argument("--host", default="127.0.0.1")
    client.add_argument("--port", type=int, required=True)
    client.add_argument("--security", choices=["implicit", "explicit"], required=True)
    client.add_argument("--fingerprint", required=True, help="SHA-256 of the certificate, hex")
    client.add_argument("--user", default="me")
    client.add_argument("--password", default="any")
    client.add_argument("--expect", nargs="+", required=True, help="names that the root lists")

    server = roles.add_parser("server")
    server.add_argument("--scenario", choices=sorted(server_role.SCENARIOS))
    server.add_argument("--cert")
    server.add_argument("--key")
    server.add_argument("--list", action="store_true")

    for role in [client, server]:
        role.add_argument("--limit", type=int, default=120, help="seconds; then SIGALRM ends it")

        role.add_argument("--patience", type=float, default=10, help="seconds for each answer")

    args = parser.parse_args()
    signal.alarm(args.limit)
    Wire.patience = args.patience
    try:
        if args.role == "client":
            client_role.run(args)
        elif args.list:
            for name, scenario in sorted(server_role.SCENARIOS.items()):
                print(name, scenario.security)
        elif not (args.scenario and args.cert and args.key):
            parser.error("server needs --scenario, --cert and --key")
        else:
            server_role.run(args)
    except Mismatch as mismatch:
        print(f"MISMATCH {mismatch}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
