"""One module for each HTTP client. It puts the session ID on that client's requests."""
