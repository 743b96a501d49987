"""A stand-in for `python -m services.run`: answers `/readyz`, `/livez`, `/ops/flow`, and says what it was told.

python fake_service.py NAME[,NAME...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def handler(name: str) -> type[BaseHTTPRequestHandler]:
    told = {key: value for key, value in os.environ.items() if key.startswith("KAP_")}
    answers = {
        "/readyz": {"service": name},
        "/livez": {"service": name},
        "/ops/flow": {"lag": 3},
        "/told": told,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def main() -> None:
    names = sys.argv[1].split(",")
    if os.environ.get("FAKE_BROKEN") in names:
        sys.exit("The fake cannot read its settings.")
    for name in names:
        port = int(os.environ[f"KAP_{name.upper()}_PORT"])
        server = ThreadingHTTPServer(("127.0.0.1", port), handler(name))
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if "stubborn" in names:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
