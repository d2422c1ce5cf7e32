"""How the session ID gets on the requests of each HTTP client: one file for each client."""
