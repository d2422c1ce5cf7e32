"""Where else is the session known? One file for each library, imported only by who uses it."""
