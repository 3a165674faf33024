"""Runs the steps in $STEPS by the MCP client and prints what each gave, as JSON."""

import asyncio
import json
import os

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


def transport():
    if os.environ["WAY"] == "stdio":
        names = ("BERTH_URL", "BERTH_TOKEN", "XDG_CONFIG_HOME", "HOME", "PATH")
        env = {name: os.environ[name] for name in names if name in os.environ}
        return stdio_client(StdioServerParameters(command=os.environ["PROGRAM"], args=["mcp"], env=env))
    token = {"Authorization": f"Bearer {os.environ['BERTH_TOKEN']}"}
    client = httpx2.AsyncClient(headers=token, timeout=120, trust_env=False)
    return streamable_http_client(os.environ["BERTH_URL"] + "/mcp", http_client=client)


async def one(client, step):
    if "await" in step:
        # As the description says: again until settled is true.
        while True:
            get = {"tool": "deployment_get", "arguments": {"deployment": step["await"], "wait_s": 50}}
            result = await one(client, get)
            if result["error"] or result["structured"]["settled"]:
                return result
    if step.get("method") == "tools/list":
        tools = (await client.list_tools()).tools
        return {"tools": [tool.model_dump(mode="json", by_alias=True) for tool in tools]}
    told = []

    async def progress(value, total, message):
        told.append(message)

    result = await client.call_tool(step["tool"], step.get("arguments", {}), progress_callback=progress)
    return {
        "error": bool(result.is_error),
        "structured": result.structured_content,
        "text": "\n".join(c.text for c in result.content if c.type == "text"),
        "progress": told,
    }


async def main():
    mode = "legacy" if os.environ["WAY"] == "legacy" else "auto"
    async with Client(transport(), mode=mode) as client:
        results = []
        for step in json.loads(os.environ["STEPS"]):
            results.append(await one(client, step))
        print(json.dumps(results))


asyncio.run(main())
