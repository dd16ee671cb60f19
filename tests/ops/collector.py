"""An OTLP/HTTP collector on loopback: keeps what it is sent."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """`spans` are the names, traces and attributes of all spans so far; `raw` every byte."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[tuple[str, str, dict[str, str]]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["Content-Length"])), self.headers)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, body: bytes, headers: Any) -> None:
        if headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    said = {a.key: a.value.string_value or str(a.value.int_value) for a in span.attributes}
                    self.spans.append((span.name, span.trace_id.hex(), said))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
