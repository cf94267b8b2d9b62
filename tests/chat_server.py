"""A chat completions API on this machine that does as it is told, mischief included."""

import contextlib
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text="Rating: 5", **changes):
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "judge-2",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **changes,
    }


class ChatServer:
    """Answers request ``number`` (from 0) with ``script(number, body)``: a completion, bytes, or a dictionary with
    ``status``, ``headers``, ``body``, ``delay`` (seconds), ``drip`` (seconds a byte of the body) or ``reset``. What
    came in stands in ``bodies``, ``headers`` and ``times``; ``most`` requests were there at one time.
    """

    def __init__(self, script):
        self.script, self.bodies, self.headers, self.times = script, [], [], []
        self.most = self._here = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.serve(self)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        # Whoever gives up a request in the middle is no news.
        self._http.handle_error = lambda request, address: None
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append({name.title(): value for name, value in handler.headers.items()})
            self.times.append(time.monotonic())
            self._here += 1
            self.most = max(self.most, self._here)
        try:
            self._answer(handler, self.script(number, body))
        finally:
            with self._lock:
                self._here -= 1

    def _answer(self, handler, said):
        plain = isinstance(said, bytes) or "choices" in said
        said = {"body": said} if plain else said
        time.sleep(said.get("delay", 0))
        if said.get("reset"):
            # A closed socket with nothing to linger for says RST.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        content = said.get("body", completion())
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        with contextlib.suppress(OSError):
            handler.send_response(said.get("status", 200))
            for name, value in {"Content-Type": "application/json", **said.get("headers", {})}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            if pause := said.get("drip"):
                for byte in content:
                    handler.wfile.write(bytes([byte]))
                    handler.wfile.flush()
                    time.sleep(pause)
            else:
                handler.wfile.write(content)
