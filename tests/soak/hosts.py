"""What arrived? The gateway and the foreign host, in a process of their own, which checks each request as it arrives.

It is told on its standard input how the calls ended, and forgets them then. It ends when that input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
from calls import ALIAS, ECHO_HEADER, FAULTS, FOREIGN, GATEWAY, ONCE, Call, Ended, Fault, Finding

SHOWN = 3  # of each kind of finding
PAUSE = 0.005
DEADLINE = 20
LONGEST_REPORT = 1 << 24


@dataclass
class Tally:
    """What was counted so far: all of it bounded, however long the run is."""

    calls: int = 0
    arrived: int = 0
    hops: int = 0
    retries: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def count(self, what: str, name: str) -> None:
        self.counts.setdefault(what, Counter())[name] += 1

    def find(self, finding: Finding | None) -> None:
        if finding is not None:
            self.findings[finding.what] += 1
            if self.findings[finding.what] <= SHOWN:
                self.first.append(f"{finding.what}: {finding.text}")


class Hosts:
    """Both hosts, and the ledger of the calls under way: how often each hop of each call arrived."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.urls: dict[str, str] = {}
        self.ledger: dict[str, Counter[int]] = {}
        self.unanswered: set[str] = set()  # calls whose connection was just being closed
        self.errors: dict[str, str] = {}  # of calls that no fault was to befall
        self.connections: set[asyncio.StreamWriter] = set()
        self.nobody_connected = asyncio.Event()
        self.nobody_connected.set()
        self.sessions: set[str] = set()

    async def listen(self) -> list[asyncio.Server]:
        servers = [
            await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024) for _ in range(2)
        ]
        gateway, foreign = (server.sockets[0].getsockname()[1] for server in servers)
        self.urls = {
            GATEWAY: f"http://127.0.0.1:{gateway}",
            FOREIGN: f"http://localhost:{foreign}",
            ALIAS: f"http://localhost:{gateway}",
        }
        return servers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections.add(writer)
        self.nobody_connected.clear()
        try:
            with contextlib.suppress(OSError, h11.RemoteProtocolError):  # a client may go away
                wire = h11.Connection(h11.SERVER)
                while await self.answer(wire, reader, writer):
                    wire.start_next_cycle()
        finally:
            self.connections.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            if not self.connections:
                self.nobody_connected.set()

    async def answer(
        self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer a request, if there is one; tell whether the connection goes on."""
        request = await next_event(wire, reader)
        if not isinstance(request, h11.Request):
            return False
        call, hop, headers = parsed(request)
        fault = self.arrive(call, hop, headers)
        if fault.early == "no":
            await skip_body(wire, reader)
        head, body = self.compose(wire, call, hop, fault)
        data = head[: int(len(head) * fault.head)] + body[: int(len(body) * fault.body)]
        for piece in in_pieces(data, fault.pieces):
            writer.write(piece)
            await writer.drain()
            if fault.pieces > 1:
                await asyncio.sleep(PAUSE)
        if fault.early == "reads on":
            await skip_body(wire, reader)
        if fault.ends == "resets":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif fault.ends == "closes when idle":
            await asyncio.sleep(PAUSE)
            await self.close_when_idle(wire, reader, writer)
        return fault.ends == "stays"

    async def close_when_idle(
        self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Close a connection that may be just about to be used, and write down for which call it was."""
        writer.write_eof()
        wire.start_next_cycle()
        request = await next_event(wire, reader)
        if isinstance(request, h11.Request):
            call, hop, headers = parsed(request)
            self.tally.find(call.check(hop, headers))
            self.unanswered.add(call.number)
            await skip_body(wire, reader)

    def arrive(self, call: Call, hop: int, headers: list[tuple[str, str]]) -> Fault:
        """Check a request, write it down, and return what is to happen to it."""
        tally, host = self.tally, f"http://{dict(headers).get('host')}"
        arrivals = self.ledger.setdefault(call.number, Counter())
        arrivals[hop] += 1
        tally.arrived += 1
        tally.find(call.check(hop, headers))
        if host != self.urls[call.route[hop]]:
            tally.find(Finding("wrong", f"arrived at {host}, hop {hop} of {call}"))
        if arrivals[hop] > call.most:
            tally.find(
                Finding("unaccounted", f"arrived {arrivals[hop]} times, hop {hop} of {call}")
            )
        tally.retries += arrivals[hop] > 1
        tally.hops += hop > 0 and arrivals[hop] == 1
        if not (call.session_id or "").startswith(ONCE):  # or they would be ever more
            self.sessions.add(call.session_id or "")
        if hop == 0 and arrivals[hop] == 1:
            for what in ("kind", "way", "reading", "route"):
                tally.count(what, getattr(call, what))
        name = call.fault if hop == call.fault_at and arrivals[hop] <= call.fault_times else "none"
        tally.count("fault", name)
        return FAULTS[name]

    def compose(
        self, wire: h11.Connection, call: Call, hop: int, fault: Fault
    ) -> tuple[bytes, bytes]:
        """Return the head and the body of the whole answer."""
        body = f"hop {hop} of call {call.number} ".encode() * 20
        headers = [(ECHO_HEADER, call.number), ("Content-Type", "text/plain"), ("Retry-After", "0")]
        headers.append(
            ("Transfer-Encoding", "chunked") if call.chunked else ("Content-Length", str(len(body)))
        )
        status = fault.status or 200
        if fault.status is None and hop + 1 < len(call.route):
            status = call.redirect
            headers.append(("Location", f"{self.urls[call.route[hop + 1]]}/{hop + 1}?{call.query}"))
            self.tally.count("redirect", str(status))
        if fault.early != "no":
            headers.append(("Connection", "close"))
        head = wire.send(h11.Response(status_code=status, headers=headers))
        halves = [wire.send(h11.Data(data=half)) for half in in_pieces(body, 2)]
        return head or b"", b"".join([*filter(None, halves), wire.send(h11.EndOfMessage()) or b""])

    def settle(self, ended: Ended) -> None:
        """Compare how a call ended with what arrived of it, and forget it."""
        arrivals = self.ledger.pop(ended.number, Counter())
        self.tally.calls += 1
        self.tally.count("ended", ended.how)
        if ended.error:
            self.errors[ended.number] = ended.error
        lost = set(range(ended.hops + 1)) - set(arrivals)
        if ended.how == "completed" and lost:
            self.tally.find(
                Finding("lost", f"hops {sorted(lost)} of call {ended.number}, which was completed")
            )
        if ended.how == "completed" and max(arrivals, default=0) > ended.hops:
            self.tally.find(
                Finding(
                    "unaccounted", f"{max(arrivals)} hops, not {ended.hops}, of call {ended.number}"
                )
            )
        if ended.how == "refused" and arrivals:
            self.tally.find(Finding("unaccounted", f"call {ended.number} arrived, and was refused"))

    def told(self, report: dict[str, Any]) -> None:
        for ended in report["ended"]:
            self.settle(Ended(**ended))
        for finding in report["findings"]:
            self.tally.find(Finding(**finding))
        for name in report["counted"]:
            self.tally.count("client", name)

    async def until_nobody_is_connected(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.nobody_connected.wait(), DEADLINE)

    async def checkpoint(self) -> dict[str, Any]:
        """Return the tally at a moment when no call is under way, and every client is closed."""
        await self.until_nobody_is_connected()
        for number in self.ledger:
            self.tally.find(
                Finding("unaccounted", f"call {number} arrived, and nobody has made it")
            )
        if self.connections:
            self.tally.find(
                Finding(
                    "unaccounted", f"{len(self.connections)} connections of closed clients are open"
                )
            )
        for number in set(self.errors) - self.unanswered:
            self.tally.find(
                Finding("failed for no reason", f"{self.errors[number]} from call {number}")
            )
        for noted in (self.ledger, self.unanswered, self.errors):
            noted.clear()
        return {**vars(self.tally), "sessions": len(self.sessions - {""}), "memory": memory()}


def parsed(request: h11.Request) -> tuple[Call, int, list[tuple[str, str]]]:
    """Return the call, the hop and the headers of a request."""
    path, _, query = request.target.decode().partition("?")
    headers = [(name.decode(), value.decode()) for name, value in request.headers]
    return Call.from_query(query), int(path[1:]), headers


def memory() -> dict[str, int]:
    """Return what this process holds: blocks, objects, and, for information, the most kilobytes that it ever held."""
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"blocks": sys.getallocatedblocks(), "objects": len(gc.get_objects()), "peak kB": peak}


def in_pieces(data: bytes, pieces: int) -> Iterator[bytes]:
    size = max(1, -(-len(data) // pieces))
    return (data[start : start + size] for start in range(0, len(data), size))


async def next_event(wire: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while (event := wire.next_event()) is h11.NEED_DATA:
        wire.receive_data(await reader.read(1 << 16))
    return event


async def skip_body(wire: h11.Connection, reader: asyncio.StreamReader) -> None:
    while isinstance(await next_event(wire, reader), h11.Data):
        pass


async def main() -> None:
    hosts = Hosts()
    servers = await hosts.listen()
    reports = asyncio.StreamReader(limit=LONGEST_REPORT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reports), sys.stdin
    )
    print(json.dumps(hosts.urls), flush=True)
    while line := await reports.readline():
        if line.strip():
            hosts.told(json.loads(line))
        else:
            print(json.dumps(await hosts.checkpoint()), flush=True)
    for server in servers:
        server.close()
    for writer in hosts.connections:
        writer.transport.abort()
    await hosts.until_nobody_is_connected()


if __name__ == "__main__":
    asyncio.run(main())
