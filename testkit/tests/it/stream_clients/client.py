"""Two WebSockets by `websockets`, which do as each line of the standard input says; each answers with a line of its own.
They send a Ping every 20 ms. Neither connects again."""

import asyncio
import ssl
import sys

import websockets

url, authority = sys.argv[1:]
TEXT = "grüß dich, 世界 😀 " * 5000


class Client:
    def __init__(self, echo, count):
        self.echo, self.count = echo, count
        self.fragments = asyncio.Queue()

    async def message(self):
        while (fragment := await self.fragments.get()) is not None:
            yield fragment

    async def obey(self, line):
        if line == "count":
            await self.count.send("any")
            return await self.count.recv()
        if line == "pid":
            await self.echo.send("pid")
            return await self.echo.recv()
        if line == "ping":
            for socket in (self.echo, self.count):
                await (await socket.ping())
            return "pong"
        if line == "echo":
            for message in (TEXT, TEXT.encode(), "", b""):
                await self.echo.send(message)
                assert await self.echo.recv() == message
            return "same"
        if line == "begin":
            self.sending = asyncio.create_task(self.echo.send(self.message()))
            for fragment in ("one ", "", "zwölf "):
                self.fragments.put_nowait(fragment)
            while not self.fragments.empty():
                await asyncio.sleep(0)
            await (await self.echo.ping())
            return "begun"
        if line == "end":
            for fragment in ("three", None):
                self.fragments.put_nowait(fragment)
            await self.sending
            return "same" if await self.echo.recv() == "one zwölf three" else "other"
        if line == "close":
            for socket in (self.echo, self.count):
                await socket.close()
            return f"{self.echo.close_code} {self.count.close_code}"
        raise ValueError(line)


async def main():
    context = ssl.create_default_context(cafile=authority) if url.startswith("wss:") else None
    options = {"ssl": context, "ping_interval": 0.02, "ping_timeout": 60, "max_size": None}
    echo, count = [await websockets.connect(url + path, **options) for path in ("/ws", "/ws/count")]
    client, loop = Client(echo, count), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(await client.obey(line.strip()), flush=True)


asyncio.run(main())
