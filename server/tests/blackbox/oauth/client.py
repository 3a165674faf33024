"""An OAuth flow by the SDK's own client; what a person would do in a browser is done here.

Arguments: the endpoint's URL, the person's token. Prints what it saw as JSON.
"""

import asyncio
import html
import json
import re
import sys
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

URL, TOKEN = sys.argv[1:3]


class Storage:
    tokens = None
    client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


seen = {}
answer = {}


async def browse(url):
    """Opens the consent page, gives the token, approves."""
    seen["scope"] = parse_qs(urlsplit(url).query).get("scope")
    async with httpx2.AsyncClient() as browser:
        page = (await browser.get(url)).text
        seen["names_client"] = "A test client" in page
        fields = {"decision": "approve", "token": TOKEN}
        fields["ticket"] = html.unescape(re.search(r'name="ticket" value="([^"]+)"', page)[1])
        fields |= {name: "on" for name in re.findall(r'name="(scope_[a-z]+)" checked', page)}
        at = urlsplit(url)
        response = await browser.post(f"{at.scheme}://{at.netloc}{at.path}", data=fields)
        answer.update(parse_qs(urlsplit(response.headers["location"]).query))


async def come_back():
    return AuthorizationCodeResult(**{name: answer[name][0] for name in ("code", "state", "iss")})


async def main():
    storage = Storage()
    metadata = OAuthClientMetadata(redirect_uris=["http://localhost:38123/callback"], client_name="A test client")
    auth = OAuthClientProvider(URL, metadata, storage, browse, come_back)
    async with create_mcp_http_client(auth=auth) as http:
        async with Client(streamable_http_client(URL, http_client=http)) as client:
            tools = await client.list_tools()
            seen["tools"] = [tool.name for tool in tools.tools]
            # An hour later: the access token is over, and the SDK takes a new one.
            first = storage.tokens
            auth.context.token_expiry_time = 1
            called = await client.call_tool("app_list", {})
            seen["called"] = not called.is_error
            seen["refreshed"] = storage.tokens.access_token != first.access_token
            seen["rotated"] = storage.tokens.refresh_token != first.refresh_token
    seen["client_id"] = storage.client.client_id
    seen["granted"] = storage.tokens.scope
    print(json.dumps(seen))


asyncio.run(main())
