"""Whose session does a span belong to? A span processor writes it on the span."""

from __future__ import annotations

from cagent_session.context import current_session_id

try:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span, SpanProcessor
except ImportError as error:
    needed = 'cagent_session.integrations.opentelemetry needs pip install "cagent-session[opentelemetry]"'
    raise ImportError(f"{error}: {needed}") from None


class SessionIdSpanProcessor(SpanProcessor):
    """A span processor that writes the current session's ID on every recorded span as it starts.

    The attributes are those of OpenTelemetry's semantic conventions: ``session.id`` and ``gen_ai.conversation.id``. As
    in the header, the session in scope replaces a value that the span was started with; what is set later stays. A
    span that is started in no session keeps what it has.

    Add it to the provider itself, before or after those that export, and not inside a ``ConcurrentMultiSpanProcessor``,
    whose threads are in no session.

    >>> from cagent_session import session_scope
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> provider = TracerProvider()
    >>> provider.add_span_processor(SessionIdSpanProcessor())
    >>> with session_scope("sess-1"), provider.get_tracer("agent").start_as_current_span("run loop") as span:
    ...     dict(span.attributes)
    {'session.id': 'sess-1', 'gen_ai.conversation.id': 'sess-1'}
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the base class's
        """Write the session's ID on *span*."""
        session_id = current_session_id()
        if session_id is not None:
            span.set_attributes({"session.id": session_id, "gen_ai.conversation.id": session_id})

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the base class's
        """Return ``True``: there is nothing to flush, and SDKs before 1.42 stop at a processor that says less."""
        return True
