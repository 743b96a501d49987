"""Runs services: ``python -m services.run intake``; several in one process: ``python -m services.run intake,gateway``.

The one place that knows services by name. Settings come from the environment (`shared.runtime.settings`).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from shared.fhir.outcome import Unavailable
from shared.http.server import CannotListen
from shared.runtime.app import App
from shared.runtime.logging import set_up_logging
from shared.runtime.running import bring_up_to_date, serve
from shared.runtime.settings import Settings, SettingsError
from shared.store.migrate import SchemaMismatch

MODULES: Final = {
    **{
        name: f"services.{name}.service"
        for name in ("identity", "intake", "scheduling", "sessions", "outcomes", "delivery", "gateway")
    },
    "hospital": "shared.testing.hospital",
}
"""Where each service's ``create(settings) -> App`` is; in the order they start. The last stops first."""


def create(name: str) -> App:
    """Return a service by its name, with the settings of the environment.

    Raises:
        SettingsError: no such service, or the environment does not tell what it needs.

    """
    if name not in MODULES:
        raise SettingsError(f"There is no service '{name}'. There are: {', '.join(MODULES)}.")
    app = importlib.import_module(MODULES[name]).create(Settings.load(name))
    if not isinstance(app, App):
        raise TypeError(f"{MODULES[name]}.create does not return an App")
    return app


async def run(apps: Sequence[App]) -> None:
    """Migrate where the role says so, then serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.gather(*(bring_up_to_date(app) for app in apps if "migrate" in app.settings.roles))
    serving = [app for app in apps if app.settings.roles != {"migrate"}]
    if serving and not stop.is_set():
        await serve(serving, stop)


def main(arguments: Sequence[str]) -> int:
    """Run the services named by the argument, or by KAP_SERVICE; return the exit code."""
    names = {name.strip() for name in (arguments[0] if arguments else os.environ.get("KAP_SERVICE", "")).split(",")}
    try:
        unknown = names - MODULES.keys()
        if unknown:
            create(min(unknown))
        apps = [create(name) for name in MODULES if name in names]
        set_up_logging(apps[0].settings.log_level)
        gc.freeze()  # what is loaded stays to the end: no collection is to walk over it, and make everybody wait
        uvloop.run(run(apps))
    except (SettingsError, CannotListen, SchemaMismatch, Unavailable) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
