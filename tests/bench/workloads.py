"""What is asked of every server: the same questions in the same order, and the numbers each workload gives.

A workload is a function of a client and a size. Its questions come from its own seed, so that no server meets in one
workload what it computed in another, and every server meets the same. Knows no particular server.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import measure
from .load import Ask, Client, run_closed, run_open, run_threads
from .measure import Answer, percentile

# One token each in Llama's vocabulary, and about one in any other.
WORDS = re.findall(
    r"\w+",
    """
    apple river stone cloud paper music garden bridge window winter summer doctor market engine forest island letter
    mirror number office people planet police prince public record school second signal silver simple single sister
    smooth social source spirit spring square story street strong supply system table theory thing today travel tree
    valley value visit voice water west white wind winner woman wonder world writer yellow young black blood board
    branch bread bright brown camera castle center chain chair change church circle city class clean clear coast
    color common corner court cover cross crown dance dark danger deep desert dream drive earth east energy event
    eye face family farm father field film final finger fire fish flight floor flower food foot force form frame
    fresh friend front fruit future game
    """,
)

# More people than an answer has room for.
PEOPLE = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "role": {"enum": ["reader", "writer", "owner"]},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,12}$"}, "maxItems": 3},
        },
        "required": ["name", "age", "role"],
        "additionalProperties": False,
    },
}

# The service level of goodput; a reader of text on a small machine.
MAX_TTFT_S = 10.0
MAX_TPOT_S = 0.5
OVERLOAD = 4
VANISHING = 0.3
PROBE_EVERY_S = 0.1
LEAD_S = 5.0


@dataclass(frozen=True)
class Size:
    """How much is asked: words of prompts, tokens of answers, requests; limit_s bounds each workload on each server."""

    prefix: int = 300
    own: int = 24
    out: int = 32
    requests: int = 24
    distinct: int = 100
    system: int = 150
    turns: int = 4
    long: int = 1200
    stream_out: int = 160
    lead: int = 8
    singles: int = 5
    single_out: int = 64
    small: int = 32
    small_out: int = 24
    peak_requests: int = 48
    arrivals_s: float = 20.0
    limit_s: float = 40.0


QUICK = Size(
    prefix=40,
    own=8,
    out=8,
    requests=8,
    distinct=20,
    system=20,
    turns=2,
    long=120,
    stream_out=48,
    lead=2,
    singles=2,
    single_out=16,
    small=8,
    small_out=8,
    peak_requests=8,
    arrivals_s=0.5,
    limit_s=20.0,
)

Numbers = dict[str, float]
Outcome = tuple[Numbers, list[Answer]]


def single(client: Client, size: Size) -> Outcome:
    """One stream at a time: what a server adds to the model itself."""
    rng = random.Random("single")
    asks = [Ask(text(rng, size.small), size.single_out) for _ in range(size.singles)]
    answers = run_closed(client, asks, 1, size.limit_s)
    return common(answers), answers


def shared(client: Client, size: Size, n_clients: int) -> Outcome:
    """Clients whose prompts begin alike, as with one system prompt."""
    rng = random.Random(f"shared {n_clients}")
    prefix = text(rng, size.prefix)
    n_requests = max(size.requests, 2 * n_clients)
    asks = [Ask(f"{prefix} {text(rng, size.own)}", size.out) for _ in range(n_requests)]
    answers = run_closed(client, asks, n_clients, size.limit_s)
    return common(answers), answers


def distinct(client: Client, size: Size) -> Outcome:
    """8 clients with nothing in common; the service's own share of a step is read here."""
    rng = random.Random("distinct")
    asks = [Ask(text(rng, size.distinct), size.out) for _ in range(size.requests)]
    before = client.get("/metrics")[1]
    answers = run_closed(client, asks, 8, size.limit_s)
    share = measure.python_share(before, client.get("/metrics")[1])
    return {**common(answers), "python_share": share}, answers


def structured(client: Client, size: Size) -> Outcome:
    """8 clients who want JSON of a schema, which lets no answer end early; before that they ask the same freely."""
    rng = random.Random("structured")
    prompts = [text(rng, size.small) for _ in range(size.requests)]
    client.ask(Ask("warm", 4, schema=PEOPLE))
    free = run_closed(client.again(), [Ask(prompt, size.out) for prompt in prompts], 8, size.limit_s)
    answers = run_closed(client, [Ask(prompt, size.out, schema=PEOPLE) for prompt in prompts], 8, size.limit_s)
    numbers = common(answers)
    return {
        **numbers,
        "of_free": measure.throughput(free) / numbers["tok_s"] if numbers["tok_s"] else math.inf,
    }, answers


def turns(client: Client, size: Size) -> Outcome:
    """4 clients under one system prompt; each sends its whole conversation again with every new question."""
    rng = random.Random("turns")
    system = text(rng, size.system)
    questions = [[text(rng, size.own) for _ in range(size.turns)] for _ in range(4)]

    def converse(said: list[str]) -> Callable[[list[Answer]], None]:
        def live(answers: list[Answer]) -> None:
            prompt = system
            for question in said:
                prompt = f"{prompt} {question}"
                answer = client.ask_patiently(Ask(prompt, size.out))
                answers.append(answer)
                prompt += answer.text
                if client.is_cut:
                    return

        return live

    answers = run_threads(client, [converse(said) for said in questions], size.limit_s)
    return common(answers), answers


def long(client: Client, size: Size) -> Outcome:
    """3 streams run, then a long prompt arrives: how long do they stand still, and when does it get its first token?"""
    rng = random.Random("long")
    asks = [Ask(text(rng, size.small), size.stream_out) for _ in range(3)]
    long_ask = Ask(text(rng, size.long), size.small_out)
    running = threading.Semaphore(0)
    streams: list[Answer] = []
    late: list[Answer] = []

    def stream(ask: Ask) -> Callable[[list[Answer]], None]:
        def on_piece(answer: Answer) -> None:
            if len(answer.pieces) == size.lead:
                running.release()

        def live(answers: list[Answer]) -> None:
            answers.append(client.ask(ask, on_piece))
            streams.append(answers[-1])
            running.release()  # one that ended early must not hold up the long prompt

        return live

    def intrude(answers: list[Answer]) -> None:
        patience = time.monotonic() + LEAD_S  # a server that runs one stream at a time never has 3
        for _ in asks:
            running.acquire(timeout=max(0.0, patience - time.monotonic()))
        late.append(client.ask_patiently(long_ask))
        answers.append(late[0])

    answers = run_threads(client, [*map(stream, asks), intrude], size.limit_s)
    gap = measure.largest_gap_s(streams, late[0].sent_at)
    return {**common(answers), "largest_gap_s": gap, "long_ttft_s": percentile(measure.ttfts_s(late), 50)}, answers


def vanish(client: Client, size: Size) -> Outcome:
    """8 clients, and 30 % of the answers lose theirs after 3 pieces; what counts is the tokens of those who stayed."""
    rng = random.Random("vanish")
    leaving = set(rng.sample(range(size.requests), round(VANISHING * size.requests)))
    asks = [Ask(text(rng, 2 * size.small), size.out, 3 if i in leaving else None) for i in range(size.requests)]
    answers = run_closed(client, asks, 8, size.limit_s)
    stayed = [answer for answer in answers if not answer.has_vanished]
    span = measure.span_s(answers)
    useful = sum(answer.n_tokens for answer in stayed) / span if span else 0.0
    return {**common(stayed), "tok_s": useful}, answers


def overload(client: Client, size: Size) -> Outcome:
    """The peak with 16 clients; then questions arrive at 4 times that rate, and their clients do not come back.

    A server may refuse, if it does so at once and says when to ask again. Meanwhile its health is asked for.
    """
    rng = random.Random("overload")
    asks = [Ask(text(rng, size.small), size.small_out) for _ in range(size.peak_requests)]
    at_peak = run_closed(client.again(), asks, 16, size.limit_s)
    peak = measure.throughput(at_peak)
    n_complete = sum(answer.is_complete for answer in at_peak)
    if not n_complete:
        return {**common(at_peak), "peak_tok_s": peak}, at_peak
    per_second = OVERLOAD * n_complete / measure.span_s(at_peak)
    asks = [Ask(text(rng, size.small), size.small_out) for _ in range(max(1, round(per_second * size.arrivals_s)))]
    ended = threading.Event()
    probes: list[tuple[int, float]] = []

    def probe() -> None:
        while not ended.wait(PROBE_EVERY_S):
            status, _body, took_s = client.get(client.health_path)
            probes.append((status, took_s))

    prober = threading.Thread(target=probe, daemon=True)
    prober.start()
    answers = run_open(client, asks, per_second, size.arrivals_s + size.limit_s / 2)
    ended.set()
    prober.join()
    good = measure.goodput(answers, MAX_TTFT_S, MAX_TPOT_S)
    numbers = {
        "peak_tok_s": peak,
        "goodput_tok_s": good,
        "goodput_of_peak": good / peak,
        "n_asked": float(len(answers)),
        "n_refused": float(sum(answer.status in (429, 503) for answer in answers)),
        "n_disorderly": float(sum(not answer.is_orderly for answer in answers)),
        "health_p99_s": percentile((took_s if status == 200 else float("inf") for status, took_s in probes), 99),
    }
    return {**common([answer for answer in answers if answer.pieces]), **numbers}, answers


WORKLOADS: dict[str, Callable[[Client, Size], Outcome]] = {
    "single": single,
    "shared-8": lambda client, size: shared(client, size, 8),
    "shared-16": lambda client, size: shared(client, size, 16),
    "distinct-8": distinct,
    "structured-8": structured,
    "turns-4": turns,
    "long-prompt": long,
    "vanish": vanish,
    "overload": overload,
}


def warm_up(client: Client) -> None:
    """Every server gets the same two questions before it is measured."""
    rng = random.Random("warm-up")
    for _ in range(2):
        client.ask(Ask(text(rng, 16), 8))


def first_token_s(client: Client, began: float, limit_s: float, is_alive: Callable[[], bool]) -> float:
    """Seconds from `began` (time.monotonic) to the first token, asking again until the server is there."""
    answer = Answer(began, 1)
    while time.monotonic() - began < limit_s:
        if not is_alive():
            raise ChildProcessError("the server ended")
        answer = client.ask(Ask("river", 1))
        if answer.pieces:
            return answer.pieces[0] - began
        time.sleep(0.02)
    raise TimeoutError(f"no token within {limit_s:g} s; the last answer was {answer.status} {answer.fault}")


def common(answers: list[Answer]) -> Numbers:
    """The numbers that every workload has."""
    ttfts, itls = measure.ttfts_s(answers), measure.itls_s(answers)
    return {
        "tok_s": measure.throughput(answers),
        "ttft_p50_s": percentile(ttfts, 50),
        "ttft_p95_s": percentile(ttfts, 95),
        "itl_p50_s": percentile(itls, 50),
        "itl_p95_s": percentile(itls, 95),
        "n_tokens": float(sum(answer.n_tokens for answer in answers)),
        "n_answers": float(len(answers)),
        "n_broken": float(sum(not (a.is_complete or a.has_vanished or a.was_cut) for a in answers)),
        "n_short": float(sum(answer.is_short for answer in answers)),
        "n_cut": float(sum(answer.was_cut for answer in answers)),
    }


def text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=n_words))
