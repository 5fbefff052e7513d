"""Plots of a run, as PNG and SVG. Needs matplotlib.

Colours are those of Okabe and Ito, which people with every kind of colour vision tell apart;
besides, each line has a marker and its name at its end. Ours are drawn thicker, and last.
"""
import os

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

from benchmarks import peers

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, BLACK, GREY = "#56B4E9", "#E69F00", "#222222", "#8A8A8A"

LOOKS = {
    peers.OURS: (BLUE, "o"),
    peers.OURS_ASYNC: (ORANGE, "s"),
    peers.IN_MEMORY: (GREEN, "^"),
    peers.REDIS_CORE: (PINK, "v"),
    peers.REDIS_PUBSUB: (AMBER, "D"),
    peers.LITE: (SKY, "P"),
    peers.PUBLISHED: (BLACK, "X"),
    peers.ASGI_REDIS: (GREY, "<"),
    peers.DISK: ("#999933", ">"),
}
OTHER = (GREY, "o")

STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "svg.hashsalt": "asgi_ipc",
    "figure.facecolor": "white",
}
LEVELS = (0, 1000, 10000, 100000)


def draw(run, folder):
    """Draw what the run has figures for; the paths of what was written."""
    written = []
    with mpl.rc_context(STYLE):
        for name, plot in (("latency", latency), ("backlog", backlog), ("groups", groups)):
            figure = plot(run.figures)
            if figure is None:
                continue
            for kind in ("png", "svg"):
                path = os.path.join(folder, "{0}.{1}".format(name, kind))
                # No date in it: the same run gives the same file.
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(path, dpi=144, bbox_inches="tight", metadata=metadata)
                written.append(path)
            plt.close(figure)
    return written


def of(figures, workload, measure, **parameters):
    """Figures of one measure, by peer, in the order of ``peers``."""
    found = []
    for peer in peers.PEERS:
        figure = figures.find(workload, measure, peer.name, **parameters)
        if figure is not None:
            found.append((peer, figure))
    return found


def is_ours(peer):
    """Whether a line is to stand out."""
    return peer.name in (peers.OURS, peers.OURS_ASYNC)


def time_ticks(axis):
    """Powers of ten of a microsecond, as people say them."""
    names = {1e-2: "10 ns", 1e-1: "100 ns", 1: "1 µs", 10: "10 µs", 100: "100 µs"}
    names.update({1e3: "1 ms", 1e4: "10 ms", 1e5: "100 ms", 1e6: "1 s", 1e7: "10 s"})

    def name(value, _):
        return next((text for at, text in names.items() if abs(value / at - 1) < 1e-6), "")

    axis.set_major_formatter(ticker.FuncFormatter(name))
    axis.set_minor_formatter(ticker.NullFormatter())


def latency(figures):
    """A dot for the median, a bar to the 99th percentile, one line a peer."""
    found = of(figures, "latency", "round_trip")
    if not found:
        return None
    found.sort(key=lambda item: -item[1].percentiles["p50"])
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.42 * len(found)))
    for row, (peer, measured) in enumerate(found):
        colour, marker = LOOKS.get(peer.name, OTHER)
        p50, p99 = [measured.percentiles[name] / 1000 for name in ("p50", "p99")]
        width = 5 if is_ours(peer) else 3
        axes.plot([p50, p99], [row, row], color=colour, linewidth=width, alpha=0.35)
        axes.plot([p99], [row], marker="|", color=colour, markersize=11, markeredgewidth=2)
        size = 10 if is_ours(peer) else 7
        axes.plot([p50], [row], marker=marker, color=colour, markersize=size)
        axes.annotate(
            short(p50), (p50, row), xytext=(0, 8), textcoords="offset points", ha="center",
            fontsize=8, color="#333333",
        )
    axes.set_yticks(range(len(found)), [peer.title for peer, _ in found])
    for label, (peer, _) in zip(axes.get_yticklabels(), found):
        label.set_fontweight("bold" if is_ours(peer) else "normal")
    axes.set_ylim(-0.6, len(found) - 0.2)
    axes.set_xscale("log")
    time_ticks(axes.xaxis)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("there and back, log scale: marker = median, end of the bar = 99th percentile")
    axes.set_title("Latency between two processes that block")
    return figure


def short(microseconds):
    """A duration beside a marker."""
    for unit, least in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= least:
            return "{0:.3g} {1}".format(microseconds / least, unit)
    return "{0:.3g} µs".format(microseconds)


def backlog(figures):
    """One line a peer: a round trip against what waits elsewhere."""
    lines = []
    for peer in peers.PEERS:
        line = [
            (level, figures.find("waiting", "round_trip", peer.name, waiting=level))
            for level in LEVELS
        ]
        line = [(level, found.median / 1000) for level, found in line if found is not None]
        if line:
            lines.append((peer, line))
    if not lines:
        return None
    figure, axes = plt.subplots(figsize=(8, 5))
    # Nothing waiting has no place on a log scale: it gets one of its own, one step to the left.
    places = {level: index for index, level in enumerate(LEVELS)}
    draw_lines(axes, [(p, [(places[x], y) for x, y in line]) for p, line in lines])
    axes.set_xticks(range(len(LEVELS)), ["{0:,}".format(level) for level in LEVELS])
    axes.set_xlim(-0.15, len(LEVELS) - 1 + 1.25)
    axes.set_xlabel("messages that wait in other channels")
    axes.set_ylabel("one send and one receive (log scale)")
    axes.set_title("Cost of a message, beside a backlog")
    return figure


def groups(figures):
    """Two panels: the call, and to the last delivery; against the members."""
    members = sorted(
        {figure.parameters["members"] for figure in figures if figure.workload == "groups"}
    )
    if not members:
        return None
    figure, both = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    titles = ("the call alone", "to the last delivery")
    for axes, measure, title in zip(both, ("call", "delivered"), titles):
        lines = []
        for peer in peers.PEERS:
            processes = 1 if peer.name == peers.IN_MEMORY else 4
            line = []
            for number in members:
                found = figures.find(
                    "groups", measure, peer.name, members=number, processes=processes
                )
                if found is not None:
                    line.append((number, found.median / 1000))
            if line:
                lines.append((peer, line))
        draw_lines(axes, lines, logarithmic=True)
        axes.set_xticks(members, ["{0:,}".format(number) for number in members])
        axes.set_xlim(members[0] / 1.3, members[-1] * (1.3 if len(members) == 1 else 25))
        axes.set_xlabel("members of the group, in 4 processes (InMemoryChannelLayer: in 1)")
        axes.set_title("Group send, " + title)
    both[0].set_ylabel("one group send (log scale)")
    both[1].tick_params(labelleft=True)
    figure.tight_layout(w_pad=3)
    return figure


def draw_lines(axes, lines, logarithmic=False):
    """Lines with their names at their ends, on a logarithmic scale of time."""
    axes.set_yscale("log")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    ends = []
    for peer, line in sorted(lines, key=lambda item: is_ours(item[0])):
        colour, marker = LOOKS.get(peer.name, OTHER)
        ours = is_ours(peer)
        axes.plot(
            [x for x, _ in line],
            [y for _, y in line],
            color=colour,
            marker=marker,
            markersize=7 if ours else 6,
            linewidth=2.8 if ours else 1.5,
            zorder=3 if ours else 2,
            clip_on=False,
        )
        ends.append((line[-1], peer, colour))
    time_ticks(axes.yaxis)
    axes.grid(visible=False, axis="x")
    label_ends(axes, ends)


def label_ends(axes, ends):
    """Names to the right of the lines' ends, moved apart where they would overlap."""
    axes.figure.canvas.draw()
    to_pixels = axes.transData.transform
    step = 0.135 * axes.figure.dpi
    right = max(to_pixels(end)[0] for end, _, _ in ends)
    heights = sorted(
        (to_pixels(end)[1], peer.title, colour, end, peer) for end, peer, colour in ends
    )
    lowest = None
    for height, title, colour, end, peer in heights:
        place = height if lowest is None else max(height, lowest + step)
        lowest = place
        x, y = to_pixels(end)
        far = right - x > 2
        points = 72.0 / axes.figure.dpi
        axes.annotate(
            title,
            end,
            xytext=((right - x) * points + 12, (place - y) * points),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            fontweight="bold" if is_ours(peer) else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6}
            if far or abs(place - y) > 3
            else None,
            annotation_clip=False,
        )
