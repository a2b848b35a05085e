"""Registers, logs in, changes the user and logs out, at the server whose URL is the argument."""

import sys
from base64 import b64encode
from secrets import token_hex
from typing import TypeVar

from microblog_api_client import AuthenticatedClient, Client
from microblog_api_client.api.tokens import get_token, revoke_token
from microblog_api_client.api.users import create_user, get_me, update_user
from microblog_api_client.models import ChangedUser, NewUser, TokenOut, UserOut

T = TypeVar("T")


def expect(kind: type[T], answer: object) -> T:
    if not isinstance(answer, kind):
        sys.exit(f"{kind.__name__} was expected, and this came: {answer}")
    return answer


url, name, password = sys.argv[1], f"guest-{token_hex(4)}", "correct horse"
new_user = NewUser(username=name, email=f"{name}@example.com", password=password)
with Client(url) as anybody:
    print("registered", expect(UserOut, create_user.sync(client=anybody, body=new_user)).username)
credentials = b64encode(f"{name}:{password}".encode()).decode()
with AuthenticatedClient(url, credentials, "Basic") as client:
    token = expect(TokenOut, get_token.sync(client=client))
    print("logged in for", token.expires_in, "seconds")
with AuthenticatedClient(url, token.token) as client:
    me = expect(UserOut, get_me.sync(client=client))
    print("the token is of", me.username)
    change = ChangedUser(about_me="Hello")
    print(
        "changed", expect(UserOut, update_user.sync(me.id, client=client, body=change)).links.self_
    )
    if revoke_token.sync_detailed(client=client).status_code != 204:
        sys.exit("could not log out")
    if get_me.sync_detailed(client=client).status_code != 401:
        sys.exit("the token outlived the log out")
    print("logged out, and the token is refused")
