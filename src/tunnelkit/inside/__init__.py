"""Callers in the server's own program: requests that reach a tunnel without a socket."""
