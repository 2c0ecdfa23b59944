"""What the same library does with nothing else: lanes that post, read to the terminal event, and keep nothing.

The reference for the makespan: the machine's speed changes from hour to hour, and the ideal knows nothing of it.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop


async def main(url: str, rows: int, lanes: int) -> None:
    todo = iter(range(rows))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), headers={"Authorization": "Bearer app-echo"}
    ) as session:

        async def lane() -> None:
            for i in todo:
                body = {"inputs": {"query": f"row {i}"}, "response_mode": "streaming", "user": "bare"}
                answer = await session.post(f"{url}/workflows/run", json=body)
                while b"workflow_finished" not in (await answer.content.readany() or b"workflow_finished"):
                    pass
                answer.close()

        start = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(lanes)))
    print(time.monotonic() - start)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
