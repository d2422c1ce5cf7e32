"""A span processor that writes the session's ID on each span."""

from __future__ import annotations

from cagent_session.context import current_session_id, root_session_id

try:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span, SpanProcessor
except ImportError as error:
    module = "cagent_session.integrations.opentelemetry"
    needed = f'{module} needs pip install "cagent-session[opentelemetry]"'
    raise ImportError(f"{error}: {needed}") from None


class SessionIdSpanProcessor(SpanProcessor):
    """A span processor that writes the current session's ID on every recorded span as it starts.

    It sets two attributes of OpenTelemetry's semantic conventions. ``gen_ai.conversation.id`` is
    the current session's ID. ``session.id`` is the ID of its root session: see
    :func:`~cagent_session.root_session_id`. Outside a :class:`~cagent_session.sub_session`, they
    are the same.

    The current session replaces a value that the span was started with, as it does in the header.
    A value that is set later stays. A span that starts in no session keeps what it has.

    Add the processor to the provider itself, before or after the processors that export. Don't add
    it to a ``ConcurrentMultiSpanProcessor``, because its threads are in no session.

    >>> from cagent_session import session_scope, sub_session
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> provider = TracerProvider()
    >>> provider.add_span_processor(SessionIdSpanProcessor())
    >>> tracer = provider.get_tracer("agent")
    >>> with session_scope("sess-1"), sub_session("sub-1"):
    ...     with tracer.start_as_current_span("run loop") as span:
    ...         dict(span.attributes)
    {'session.id': 'sess-1', 'gen_ai.conversation.id': 'sub-1'}
    """

    def on_start(
        self,
        span: Span,
        parent_context: Context | None = None,  # noqa: ARG002 - the base class's
    ) -> None:
        """Write the IDs of the session and its root on *span*."""
        session_id, root_id = current_session_id(), root_session_id()
        if session_id and root_id:  # there are both, or none
            span.set_attributes({"session.id": root_id, "gen_ai.conversation.id": session_id})

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the base class's
        """Return ``True``: there is nothing to flush.

        SDKs before 1.42 would not flush the next processors if this returned ``None``.
        """
        return True
