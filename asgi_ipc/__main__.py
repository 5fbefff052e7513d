"""``python -m asgi_ipc``: the command ``asgi-ipc`` where scripts are not on the path."""
import sys

from asgi_ipc.cli import main

if __name__ == "__main__":
    sys.exit(main())
