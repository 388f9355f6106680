"""Asks a Prefect server as those would who must get nothing: a web page of another origin, another user."""

import base64
import json
from http.client import HTTPConnection, HTTPMessage
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PAGE = {"Origin": "http://page.example"}
TEXT, JSON = {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}
REBOUND = {"Host": "page.example:4200", "Origin": "http://page.example:4200"}
"""Of a page whose name leads to 127.0.0.1: to its browser, the server is the page's own."""


def ask(url: str, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, HTTPMessage, bytes]:
    """Status, headers and body of one answer. `url` is the API's; a POST has an empty JSON object."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=600)
    try:
        connection.request(method, parts.path + path, b"{}" if method == "POST" else None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def basic(password: str) -> dict[str, str]:
    """The header with a password."""
    return {"Authorization": "Basic " + base64.b64encode(password.encode()).decode()}


def assert_closed(url: str, password: str) -> None:
    """Nobody gets anything but who has the password, and no page of another origin even then."""
    wanted = "Access-Control-Request-Headers"
    preflight = PAGE | {"Access-Control-Request-Method": "POST", wanted: "authorization, content-type"}
    token = "/csrf-token?client=me"
    wrong = basic("admin:wrong")
    for method, path, headers, expected in [
        ("OPTIONS", "/flows/count", preflight, 400),
        # A request that browsers send without a preflight: the token is missing.
        ("POST", "/flows/count", PAGE | TEXT | basic(password), 403),
        ("GET", token, REBOUND, 401),
        ("GET", "/admin/version", REBOUND, 401),
        ("GET", token, wrong, 401),
    ]:
        status, answered, _ = ask(url, method, path, headers)
        assert status == expected, (method, path, headers)
        assert answered["Access-Control-Allow-Origin"] is None, (method, path, headers)
    # Who has the password, and has asked for a token, gets in: the refusals above are no accident.
    with_token = {"Prefect-Csrf-Client": "me"}
    with_token["Prefect-Csrf-Token"] = json.loads(ask(url, "GET", token, basic(password))[2])["token"]
    assert ask(url, "POST", "/flows/count", JSON | with_token | basic(password))[0] == 200
    assert ask(url, "POST", "/flows/count", JSON | wrong | with_token)[0] == 401

    socket = url.replace("http:", "ws:") + "/events/out"  # no CORS there
    with pytest.raises(InvalidStatus, match="403"), connect(socket, origin=PAGE["Origin"]):
        pass
    with connect(socket, origin=PAGE["Origin"], subprotocols=["prefect"]) as events:
        events.send(json.dumps({"type": "auth", "token": "admin:wrong"}))
        with pytest.raises(ConnectionClosed, match="1008"):
            events.recv()
