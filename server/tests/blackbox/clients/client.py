"""What an assistant does, with the Python client as it comes: URL, token, mode and the name of a new project."""

import asyncio
import json
import sys

import httpx2 as httpx
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url, token, mode, name):
    told = []

    async def progress(done, total, message):
        told.append(message)

    http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
        tools = (await client.list_tools()).tools
        read = await client.call_tool("app_list", {})
        arguments = {"name": "project_create", "arguments": {"name": name}}
        wrote = await client.call_tool("tool_write", arguments)
        deploy = {"app": name, "create_app": True, "files": {"index.html": "hello"}, "wait_s": 40}
        deployed = await client.call_tool("deployment_create", deploy, progress_callback=progress)
        wrong = await client.call_tool("app_get", {"app": "nowhere"})
        resource = await client.read_resource("berth://docs/overview")
        prompt = await client.get_prompt("why_is_it_down", {"app": name})
    print(json.dumps({
        "tools": [tool.name for tool in tools],
        "read": read.structured_content,
        "wrote": wrote.structured_content,
        "deployed": deployed.structured_content,
        "progress": told,
        "wrong": wrong.is_error,
        "resource": resource.contents[0].text,
        "prompt": prompt.messages[0].content.text,
    }))


asyncio.run(main(*sys.argv[1:]))
