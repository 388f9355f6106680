"""A local S3 server (moto) on 127.0.0.1, which counts what it sends and may refuse what the test says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow.fs

from hmr_skel.data.storage import RemotePath

BUCKET, SECRET = "bucket", "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY"


@dataclass
class ObjectStore:
    """A server that runs. Servers of one process have the same objects: one may stop, and another go on."""

    port: int
    refuse: Callable[[str, str], bool] = lambda method, path: False
    """Whether a request (its method; path and query) is answered by status 403."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    """Bytes of all answers' bodies."""

    def place(self, name: str, bucket: str = BUCKET) -> RemotePath:
        return RemotePath(f"{bucket}/{name}", f"endpoint_override=127.0.0.1:{self.port}&region=us-east-1&scheme=http")


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """An object store with the bucket `bucket`."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *args) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    store = ObjectStore(0)

    def app(environ, start_response):
        method, query = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        store.requests.append((method, path))
        if store.refuse(method, path):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        body = b"".join(moto(environ, start_response))
        store.sent += len(body)
        return [body]

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    store.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        options = {"endpoint_override": f"127.0.0.1:{store.port}", "scheme": "http", "region": "us-east-1"}
        pyarrow.fs.S3FileSystem(**options, allow_bucket_creation=True).create_dir(BUCKET)
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
