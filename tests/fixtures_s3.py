"""S3 servers for tests: moto in this process, and a real one (Ceph's gateway) where its packages are installed.

Both take the same credentials, which the fixtures put into the environment, where boto3 looks for them.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from assetmill.config import StoreConfig
from servers.ceph_gateway import INSTALL, Endpoint, ceph_gateway, missing_programs

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret"


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[None]:
    """Credentials of the test servers, and nothing of the person's or machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in Endpoint("", ACCESS_KEY, SECRET_KEY).environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def moto_endpoint(s3_environment: None) -> Iterator[Endpoint]:
    """moto's S3 on loopback: quick, and lenient (it takes any credentials)."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class QuietHandler(MotoRequestHandler):
        def log(self, *args: object) -> None:
            pass

    backend = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def application(environ: dict, start_response: Callable) -> object:
        # moto looks for the key, then stores it: without this, two racing conditional PUTs could both succeed.
        with one_at_a_time:
            return backend(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Endpoint(f"http://127.0.0.1:{server.server_port}", ACCESS_KEY, SECRET_KEY)
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="session")
def ceph_endpoint(s3_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A real S3 server. Skips on a machine without its packages, and fails there in CI."""
    if lacking := missing_programs():
        reason = f"Ceph's gateway is not installed ({', '.join(lacking)} not found); install it with: {INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with ceph_gateway(tmp_path_factory.mktemp("ceph")) as endpoint:
        yield endpoint


def make_bucket(endpoint: Endpoint, prefix: str = "pre/fix") -> StoreConfig:
    """A store config for a new bucket at an endpoint."""
    import boto3

    name = f"b-{uuid.uuid4().hex[:16]}"
    client = boto3.client("s3", endpoint_url=endpoint.url)
    client.create_bucket(Bucket=name)
    client.close()
    return StoreConfig(url=f"s3://{name}/{prefix}".rstrip("/"), endpoint_url=endpoint.url, region=endpoint.region)
