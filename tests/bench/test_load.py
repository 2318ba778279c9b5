"""The load client against a scripted server on loopback: time is a number that the script moves, never the wall's."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.bench.load import Ask, Client, run_closed, run_open
from tests.bench.measure import Answer

Script = Callable[["Connection"], None]


class Connection:
    """The server's end of one question. `noted` is released whenever the client has noted a piece of text."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self._sock = sock
        self._server = server
        self.body = self._read_request()

    def _receive(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionAbortedError("the client has gone")
        return data

    def _read_request(self) -> dict:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(
            next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split()[1]
        )
        while len(body) < length:
            body += self._receive()
        return json.loads(body)

    def start(self, status: str = "200 OK", *headers: str) -> None:
        self._sock.sendall("\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode())

    def send(self, line: str) -> None:
        self._sock.sendall(f"{line}\n\n".encode())

    def event(self, **event: object) -> None:
        self.send("data: " + json.dumps(event))

    def piece(self, text: str, after_s: float = 0.0) -> None:
        """`after_s` pass, the piece is sent, and the clock stands until the client has noted it."""
        self._server.now += after_s
        self.event(choices=[{"text": text, "finish_reason": None}])
        assert self._server.noted.acquire(timeout=30)

    def finish(self, n_tokens: int | None = None) -> None:
        self.event(choices=[{"text": "", "finish_reason": "length"}])
        if n_tokens is not None:
            self.event(choices=[], usage={"completion_tokens": n_tokens})
        self.send("data: [DONE]")

    def wait_gone(self) -> None:
        """Until the client has closed its end."""
        while self._sock.recv(1024):
            pass


class Server:
    """Plays one script for each connection, in the order they come; the last script again for all that follow."""

    def __init__(self, scripts: list[Script]) -> None:
        self.now = 100.0
        self.noted = threading.Semaphore(0)
        self.bodies: list[dict] = []
        self.is_gone = threading.Event()
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def note(self, _answer: Answer) -> None:
        self.noted.release()

    def _listen(self) -> None:
        for number in range(1000):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(number, len(self._scripts) - 1)]
            thread = threading.Thread(target=self._play, args=(sock, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket, script: Script) -> None:
        with sock, contextlib.suppress(ConnectionError):
            connection = Connection(sock, self)
            self.bodies.append(connection.body)
            script(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Server, Client]]]:
    servers = []

    def start(*scripts: Script) -> tuple[Server, Client]:
        server = Server(list(scripts))
        servers.append(server)
        return server, Client(server.port, clock=lambda: server.now)

    yield start
    for server in servers:
        server.close()


def test_times_of_the_pieces_are_those_of_the_script(serve):
    def script(connection: Connection) -> None:
        connection.start()
        connection.piece(" one", after_s=0.5)
        connection.piece(" two", after_s=0.125)
        connection.piece(" three", after_s=0.25)
        connection.finish()

    server, client = serve(script)
    answer = client.ask(Ask("river", 3), server.note)
    assert (answer.ttft_s, answer.gaps_s) == (0.5, [0.125, 0.25])
    assert (answer.text, answer.n_tokens, answer.is_complete) == (" one two three", 3, True)


def test_question_asks_for_a_greedy_stream_with_usage(serve):
    server, client = serve(lambda connection: (connection.start(), connection.finish()))
    client.ask(Ask("river stone", 7))
    assert server.bodies == [
        {
            "model": "bench",
            "prompt": "river stone",
            "max_tokens": 7,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_server_that_counts_its_tokens_is_believed(serve):
    def script(connection: Connection) -> None:
        connection.start()
        connection.piece(" two at once")
        connection.finish(n_tokens=2)

    server, client = serve(script)
    assert client.ask(Ask("river", 2), server.note).n_tokens == 2


def test_comments_and_empty_pieces_are_not_tokens(serve):
    def script(connection: Connection) -> None:
        connection.start()
        connection.send(": ping")
        connection.event(choices=[{"text": "", "finish_reason": None}])
        connection.piece(" one")
        connection.finish()

    server, client = serve(script)
    assert client.ask(Ask("river", 1), server.note).n_tokens == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: None,  # the connection just ends
        lambda connection: connection.event(error={"message": "the model failed"}),
        lambda connection: connection.send("data: {no json"),
    ],
)
def test_answer_that_breaks_off_is_not_complete(serve, end):
    def script(connection: Connection) -> None:
        connection.start()
        connection.piece(" one")
        end(connection)

    server, client = serve(script)
    answer = client.ask(Ask("river", 2), server.note)
    assert answer.status == 200 and not answer.is_complete and not answer.is_orderly


def test_nobody_there_is_a_fault_and_no_exception():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = Client(port).ask(Ask("river", 1))
    assert answer.status == 0 and "ConnectionRefusedError" in answer.fault


def refuse(connection: Connection) -> None:
    connection.start("503 Service Unavailable", "Retry-After: 0")
    connection.send('{"error": "busy"}')


def answer_at_once(connection: Connection) -> None:
    connection.start()
    connection.event(choices=[{"text": " one", "finish_reason": "length"}])
    connection.finish()


def test_refused_client_asks_again_and_has_waited_since_the_first_time(serve):
    def busy_for_a_second(connection: Connection) -> None:
        refuse(connection)
        server.now += 1.0

    server, client = serve(busy_for_a_second, busy_for_a_second, answer_at_once)
    answer = client.ask_patiently(Ask("river", 1))
    assert (answer.status, answer.n_refusals, answer.sent_at) == (200, 2, 100.0)
    assert len(server.bodies) == 3


def test_refusal_without_retry_after_is_seen(serve):
    _, client = serve(lambda connection: connection.start("503 Service Unavailable"))
    answer = client.ask(Ask("river", 1))
    assert (answer.status, answer.has_retry_after, answer.is_orderly) == (503, False, False)


def test_vanishing_client_closes_its_connection_mid_answer(serve):
    gone = threading.Event()

    def script(connection: Connection) -> None:
        connection.start()
        connection.piece(" one")
        connection.piece(" two")
        connection.wait_gone()
        gone.set()

    server, client = serve(script)
    answer = client.ask(Ask("river", 9, leaves_after=2), server.note)
    assert answer.has_vanished and answer.n_tokens == 2 and not answer.is_complete
    assert gone.wait(30)


def test_cut_ends_an_answer_that_hangs_and_keeps_what_came(serve):
    def script(connection: Connection) -> None:
        connection.start()
        connection.piece(" one")
        client.cut()
        connection.wait_gone()

    server, client = serve(script)
    answer = client.ask(Ask("river", 9), server.note)
    assert answer.was_cut and answer.n_tokens == 1
    assert client.ask(Ask("river", 9)).was_cut, "nothing is asked after the cut"
    assert len(server.bodies) == 1


def test_closed_loop_asks_every_question_once_and_never_more_than_its_clients_at_a_time(serve):
    running, most, lock = 0, 0, threading.Lock()

    def script(connection: Connection) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        connection.start()
        with lock:
            running -= 1
        answer_at_once(connection)

    server, client = serve(script)
    answers = run_closed(client, [Ask(f"river {i}", 1) for i in range(12)], 3, 60)
    assert len(answers) == 12 and sorted(body["prompt"] for body in server.bodies) == sorted(
        f"river {i}" for i in range(12)
    )
    assert most <= 3


def test_open_loop_does_not_wait_for_answers_and_does_not_ask_again(serve):
    everybody = threading.Barrier(5)

    def script(connection: Connection) -> None:
        everybody.wait(30)  # passes only if all five are asked before any is answered
        refuse(connection)

    server, client = serve(script)
    answers = run_open(client, [Ask(f"river {i}", 1) for i in range(5)], 1000.0, 60)
    assert [answer.status for answer in answers] == [503] * 5
    assert len(server.bodies) == 5


def test_closed_loop_is_cut_at_its_limit(serve):
    _, client = serve(lambda connection: (connection.start(), connection.wait_gone()))
    answers = run_closed(client, [Ask("river", 1)] * 5, 2, limit_s=0.05)
    assert client.is_cut and 1 <= len(answers) <= 2 and all(answer.was_cut for answer in answers)
