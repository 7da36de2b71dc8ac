"""Processes that tests start and kill: one fork server, which has imported all they need.

It starts once a test run, with what the first to use it asks for; so all ask here.
"""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    # Python 3.11's server does not know the folder of the helpers; what they import it can find.
    [
        "killed_run",
        "ranks_run",
        "musc_fast.backends.cpu.operators",
        "musc_fast.runs.watch",
        "musc_fast.musc",
        "timm",
    ]
)
