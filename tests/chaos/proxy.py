"""Doors between a process and its PostgreSQL or Kafka, for the campaign to shut: TCP proxies in their own thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Literal

import uvloop

Cut = Literal["closed", "silent"]
"""How a door is shut: connections are broken and refused; or nothing passes any more and nobody is told."""

_CHUNK = 256 * 1024
_DELAYS = (OSError, RuntimeError)


class Door:
    """A TCP proxy on 127.0.0.1: `port` leads to `target`."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.closed = False
        self.open = asyncio.Event()
        self.open.set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None

    async def serve(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_CHUNK)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self.open.wait()
            if self.closed:
                return
            answers, there = await asyncio.open_connection("127.0.0.1", self.target, limit=_CHUNK)
            self.writers.add(there)
            await asyncio.gather(self._pump(reader, there), self._pump(answers, writer))
        except _DELAYS:
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self.writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            await self.open.wait()
            writer.write(chunk)
            await writer.drain()
        await self.open.wait()  # who is cut off does not hear that the other has gone
        with suppress(*_DELAYS):
            writer.close()

    def shut(self, how: Cut) -> None:
        if how == "silent":
            self.open.clear()
            return
        self.closed = True
        for writer in list(self.writers):
            writer.transport.abort()

    def unshut(self) -> None:
        self.closed = False
        self.open.set()


class Doors:
    """All doors, on a loop of their own, so that the campaign's work does not slow them."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="doors", daemon=True)
        self._thread.start()
        self._made: list[Door] = []

    def make(self, port: int, target: int) -> Door:
        async def make() -> Door:
            door = Door(port, target)
            await door.serve()
            self._made.append(door)
            return door

        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)

    def shut(self, door: Door, how: Cut) -> None:
        self._loop.call_soon_threadsafe(door.shut, how)

    def unshut(self, door: Door) -> None:
        self._loop.call_soon_threadsafe(door.unshut)

    def stop(self) -> None:
        async def end() -> None:
            for door in self._made:
                if door.server is not None:
                    door.server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
