"""A server extension for tests: POST /watch starts to measure the server, DELETE /watch ends it and tells.

A second connection of its own kind: GET /refusals tells how many messages of each kernel were refused, and why.
"""

from __future__ import annotations

import gc

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from tests.server.ticker import Ticker


class Watch(APIHandler):
    ticker: Ticker | None = None

    @web.authenticated
    async def post(self):
        ticker = Watch.ticker = Ticker()
        ticker.start()
        self.finish({"rss_mib": _rss_mib(), "frozen_objects": gc.get_freeze_count()})

    @web.authenticated
    async def delete(self):
        ticker = Watch.ticker
        await ticker.stop()
        longest = {"longest_work_s": ticker.longest_work_s, "longest_turn_s": ticker.longest_turn_s}
        self.finish({"peak_mib": ticker.peak_mib, "rss_mib": _rss_mib(), **longest})


class Refusals(APIHandler):
    @web.authenticated
    async def get(self, kernel_id):
        kernel = self.kernel_manager.get_kernel(kernel_id)
        channels = kernel._create_connected_socket.__self__
        self.finish({str(reason): count for reason, count in channels.refusals.counts.items()})


def _rss_mib() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4 / 1024


def _jupyter_server_extension_points():
    return [{"module": "tests.attacks.loop_watch"}]


def _load_jupyter_server_extension(serverapp):
    base = serverapp.web_app.settings["base_url"]
    serverapp.web_app.add_handlers(
        ".*$", [(url_path_join(base, "watch"), Watch), (url_path_join(base, r"refusals/([\w-]+)"), Refusals)]
    )
