"""OHIF as its authors build it, before Orthanc's DICOMweb on one origin of this machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.pacs import Orthanc

VARIABLE = "COVCT_OHIF"
# WebGL by the processor.
WITHOUT = ("--disable-gpu",)
MORE = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "dicomweb",
    "configuration": {
        "friendlyName": "Orthanc",
        "name": "orthanc",
        "wadoUriRoot": "/wado",
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True},
    },
}
CONFIGURATION = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [SOURCE],
}


class _Handler(SimpleHTTPRequestHandler):
    """Files of the viewer, its configuration, and the PACS behind the same address."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments, pacs: Orthanc, **options):
        self.pacs = pacs
        super().__init__(*arguments, **options)

    def log_message(self, *arguments) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")  # for memory that its workers share
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith(("/dicom-web", "/wado")):
            connection = HTTPConnection("127.0.0.1", self.pacs.http_port, timeout=60)
            passed = {
                name: value for name, value in self.headers.items() if name.lower() in ("accept", "range", "host")
            }
            connection.request("GET", self.path, headers=passed)
            answer = connection.getresponse()
            self._answer(answer.read(), answer.headers.get("Content-Type", ""), answer.status)
            connection.close()
        elif path == "/app-config.js":
            self._answer(f"window.config = {json.dumps(CONFIGURATION)};".encode(), "application/javascript")
        else:
            if not Path(self.directory, path.lstrip("/")).is_file():
                self.path = "/index.html"  # a route of the viewer
            super().do_GET()

    def _answer(self, contents: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)


@contextmanager
def served(pacs: Orthanc) -> Iterator[str]:
    """The address of the viewer; skips where it is not there."""
    folder = os.environ.get(VARIABLE, "")
    if not Path(folder, "index.html").is_file():
        pytest.skip(f"{VARIABLE} is not the folder `dist` of the package @ohif/app (npm pack @ohif/app; tar xzf ...)")
    handler = partial(_Handler, directory=folder, pacs=pacs)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
