"""On what the figures were measured: they mean little without it."""
import os
import platform
import time


def describe():
    """Dict of what is known before the run begins."""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "python": "{0} {1}".format(platform.python_implementation(), platform.python_version()),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "kernel": "{0} {1}".format(platform.system(), platform.release()),
        "machine": platform.machine(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {},
    }


def cpu():
    """The processor's name, as the system has it."""
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def loaded(environment):
    """A warning if others used the machine when the run began, else None."""
    load, cores = environment["load_before"][0], environment["cores"] or 1
    if load < 0.5 * cores:
        return None
    return (
        "the load was {0:.1f} on {1} cores before the run began: absolute figures are not to be "
        "relied on, ratios are noisier than they need be".format(load, cores)
    )
