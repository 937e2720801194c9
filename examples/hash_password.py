"""Make a hash of a password, for --passwords-file and --passwords.

    python examples/hash_password.py                        asks on the terminal, twice
    python examples/hash_password.py < password             reads the first line

The password is never an argument: others on the machine can see those. It prints scrypt$..., which stands in the
password's place: TOKEN:scrypt$...
"""

from __future__ import annotations

import getpass
import secrets
import sys

from tunnelkit.core.credentials import PASSWORD_LIMIT, hash_password

__all__ = ["main"]


def main() -> int:
    if len(sys.argv) > 1:  # not repeated: it may be a password
        return fail("takes no arguments; it asks for the password, or reads it from standard input")
    try:
        password = ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        return fail("the password is not UTF-8 text")
    except (EOFError, KeyboardInterrupt):
        return fail("no password was given")
    if problem := refused(password):
        return fail(problem)
    print(hash_password(password, secrets.token_bytes(16)))
    return 0


def ask() -> str:
    password = getpass.getpass("Password: ")
    return password if getpass.getpass("Once more: ") == password else ""


def refused(password: str) -> str:
    """Why there is no hash of it, or ""."""
    if not password:
        return "the password is empty, or was not typed the same twice"
    if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_LIMIT:
        return f"the password is longer than {PASSWORD_LIMIT} bytes"
    return ""


def fail(text: str) -> int:
    print(f"hash_password.py: error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
