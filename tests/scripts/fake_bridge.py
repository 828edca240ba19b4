#!/usr/bin/env python3
"""Stands for codex-bridge towards its launchers: says where it listens, answers /readyz, has a model, makes keys and
takes them over at SIGHUP, stops on SIGTERM.

FAKE_EXIT: exit code after SIGTERM. FAKE_DIE: exits with it at once. FAKE_UNREADY: 503s before the first 200.
FAKE_SHOW: says its arguments.
"""

import http.server
import json
import os
import pathlib
import signal
import sys
import threading

if "FAKE_DIE" in os.environ:
    print("no such model", file=sys.stderr)
    sys.exit(int(os.environ["FAKE_DIE"]))

if sys.argv[1:3] == ["keys", "add"]:
    folder = pathlib.Path(sys.argv[sys.argv.index("--state") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"the key of {sys.argv[3]}")
    sys.exit()

if "--chatgpt" in sys.argv and "--state" in sys.argv:
    folder = pathlib.Path(sys.argv[sys.argv.index("--state") + 1]) / "demo"
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_text("a certificate\n")

unready = int(os.environ.get("FAKE_UNREADY", "0"))
signals = 0
keys = 1


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global unready
        status = 503 if unready > 0 else 200
        unready -= 1
        bodies = {"/v1/models": {"data": [{"id": "model"}]}, "/v1/health": {"keys": {"count": keys}}}
        body = json.dumps(bodies[self.path]).encode() if self.path in bodies else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def reload(*_):
    global keys
    keys = 3


def stop(*_):
    global signals
    signals += 1
    threading.Thread(target=server.shutdown).start()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGINT, stop)
if "FAKE_SHOW" in os.environ:
    print("arguments", *sys.argv[1:], flush=True)
print("stand-in on http://127.0.0.1:1/v1", flush=True)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever(poll_interval=0.02)
print(f"stopped by {signals}", flush=True)
sys.exit(int(os.environ.get("FAKE_EXIT", "0")))
