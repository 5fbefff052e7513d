"""The screen of ``top``, drawn by rich. Whoever imports this has that."""
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from asgi_ipc.commands import output, top

_FRAME = 8
"""Lines of the screen that are not channels."""

_HINT = "w waiting  o oldest  s sent  r refused  n name  q quit"


class Screen(object):
    """The whole terminal, given back at the end.

    :param rows: of channels; None for as many as fit.
    """

    def __init__(self, rows):
        self._console = Console(highlight=False)
        self._asked = rows
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stderr=False
        )

    @property
    def rows(self):
        """Channels that fit on the screen."""
        return min(self._asked or 1000, max(self._console.size.height - _FRAME, 1))

    def __enter__(self):
        self._live.__enter__()
        return self

    def __exit__(self, *failure):
        self._live.__exit__(*failure)

    def __call__(self, view):
        """Show a view."""
        lines = [Text(line) for line in top.summary(view)]
        if view["trouble"]:
            lines.append(Text(output.safe(view["trouble"]), style="bold red"))
        panel = Panel(
            Group(*lines), title=Text(view["prefix"], style="bold"), subtitle=Text(_HINT),
            border_style="red" if view["trouble"] else "green",
        )  # fmt: skip
        self._live.update(Group(panel, _channels(view)), refresh=True)


def _channels(view):
    table = Table(expand=True, box=None, pad_edge=False)
    sorted_by = top.SORTED_BY[view["sort"]]
    for column, heading in enumerate(top.HEADINGS):
        table.add_column(
            heading.lstrip(">"),
            justify="right" if heading.startswith(">") else "left",
            style="bold" if column == sorted_by else "",
            header_style="reverse" if column == sorted_by else "bold",
            no_wrap=True,
            ratio=1 if not column else None,
        )
    for channel in view["channels"]:
        # Text, for what is in brackets would be taken for a style.
        row = [Text(str(cell)) for cell in top.cells(channel)]
        if channel["refused_per_second"]:
            row[top.SORTED_BY["refused"] - 1].stylize("red")
        table.add_row(*row)
    return table
