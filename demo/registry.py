"""A registry on loopback with one image in it, for the demo. Usage: registry.py LAYOUT NAME

Starts docker-registry in the working directory, uploads the image of an OCI layout as NAME:latest, prints HOST:PORT and
stays until SIGTERM, which ends the registry too.
"""
from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 20  # seconds
PIECE = 1 << 20


def main(layout: Path, name: str) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    Path("registry.yml").write_text(json.dumps({  # JSON is YAML
        "version": 0.1, "log": {"level": "info", "accesslog": {"disabled": True}}, "http": {"addr": "127.0.0.1:0"},
        "storage": {"filesystem": {"rootdirectory": "registry"}},
    }))
    with open("registry.log", "wb") as log:
        registry = subprocess.Popen(["docker-registry", "serve", "registry.yml"], stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log, env={"OTEL_TRACES_EXPORTER": "none"})
    try:
        host = listening(registry)
        upload(host, layout, name)
        print(host, flush=True)
        registry.wait()
        return 1
    finally:
        registry.terminate()
        registry.wait()


def listening(registry: subprocess.Popen[bytes]) -> str:
    """Its address, which it writes into its log."""
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last and registry.poll() is None:
        found = re.search(r"listening on (127\.0\.0\.1:[1-9]\d*)", Path("registry.log").read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"docker-registry does not start: {Path('registry.log').read_text()[-500:]}")


def upload(host: str, layout: Path, name: str) -> None:
    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = blob(entry["digest"]).read_bytes()
    documents = json.loads(manifest)
    for known in (documents["config"], *documents["layers"]):
        location = urlsplit(ask(host, "POST", f"/v2/{name}/blobs/uploads/"))
        with open(blob(known["digest"]), "rb") as file:
            ask(host, "PUT", f"{location.path}?{location.query}&digest={known['digest']}", file, known["size"])
    ask(host, "PUT", f"/v2/{name}/manifests/latest", manifest, len(manifest), entry["mediaType"])


def ask(host: str, method: str, target: str, body: object = None, size: int = 0,
        kind: str = "application/octet-stream") -> str:
    """Where the answer points to."""
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    connection.request(method, target, body, {"Content-Type": kind, "Content-Length": str(size)})  # type: ignore[arg-type]
    answer = connection.getresponse()
    if answer.status not in (201, 202):
        raise SystemExit(f"{method} {target}: {answer.status} {answer.read()[:500]!r}")
    return answer.headers["Location"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
