"""Benchmarks: ratios measured side by side, in one run. ``python -m benchmarks``.

::

    __main__          the command line
        runner        every contestant in turn, round by round
            plan      which workloads, how often
            workloads, apart, group_sends      what actors are asked to do
            session   hosts and actors as processes
                host, actor, tasks, tasks_async, peers    what runs in these processes
            redis_server, old_python           what peers need besides
        figures, bounds, compare, results      medians and ratios, verdict, JSON
        report, terminal, documents, plots     what a person sees

``flat_cost`` and ``channels1_http`` are benchmarks by themselves.
"""
