"""The documents in an answer that is sent in pieces."""

from __future__ import annotations

from cagent_session.testing.bedrock import AWS_EVENT_STREAM, documents_in
from cagent_session.testing.json_bodies import EVENT_STREAM, JSON_LINES

JSON_LINES_TYPES = (
    JSON_LINES,
    "application/jsonl",
    "application/jsonlines",
    "application/ndjson",
    "application/x-jsonl",
    "application/x-jsonlines",
)


class Documents:
    """Finds the JSON documents in the pieces of an answer. It reads no piece twice.

    :param mimetype: the type of the answer. An unknown type is one document.
    """

    def __init__(self, mimetype: str) -> None:
        self._mimetype = mimetype
        self._rest = bytearray()
        self._event: list[bytearray] = []  # the data of an event that has not ended

    def add(self, piece: bytes) -> list[bytes]:
        """Return the documents that end with *piece*."""
        self._rest += piece
        if self._mimetype == AWS_EVENT_STREAM:
            return documents_in(self._rest)
        if self._mimetype not in (EVENT_STREAM, *JSON_LINES_TYPES):
            return []
        end = self._rest.rfind(b"\n", len(self._rest) - len(piece)) + 1
        lines = self._rest[:end].splitlines()
        del self._rest[:end]
        return self._documents_of(lines)

    def end(self) -> list[bytes]:
        """Return the documents that end with the answer."""
        rest, self._rest = self._rest, bytearray()
        if self._mimetype != EVENT_STREAM:
            return [bytes(rest)]
        return self._documents_of([*rest.splitlines(), bytearray()])

    def _documents_of(self, lines: list[bytearray]) -> list[bytes]:
        """Return the documents that end with these *lines*."""
        if self._mimetype != EVENT_STREAM:
            return [bytes(line) for line in lines]
        documents = []
        for line in lines:
            if line.startswith(b"data:"):
                self._event.append(line[5:])
            elif not line:
                documents.append(b"\n".join(self._event))
                self._event = []
        return documents
