"""Every route and the scopes that it accepts; the tests fail if a route is missing here."""

# The scopes of a route, separated by spaces; an access token needs one of them. "" means
# that access tokens are refused.
ROUTES = {
    ("GET", "/api/users"): "read",
    ("GET", "/api/users/me"): "read",
    ("GET", "/api/users/1"): "read",
    ("PUT", "/api/users/1"): "write",
    ("PUT", "/api/users/1/password"): "",
    ("DELETE", "/api/users/1"): "",
    ("GET", "/api/users/1/followers"): "read",  # microblog
    ("GET", "/api/users/1/following"): "read",  # microblog
    ("GET", "/api/users/1/followed"): "read",  # microblog
    ("PUT", "/api/users/me/following/1"): "write",  # microblog
    ("DELETE", "/api/users/me/following/1"): "write",  # microblog
    ("GET", "/api/users/1/posts"): "read",  # microblog
    ("GET", "/api/posts"): "read",  # microblog
    ("GET", "/api/feed"): "read",  # microblog
    ("POST", "/api/posts"): "write",  # microblog
    ("GET", "/api/posts/1"): "read",  # microblog
    ("PUT", "/api/posts/1"): "write",  # microblog
    ("DELETE", "/api/posts/1"): "write",  # microblog
    ("GET", "/api/tokens"): "read write introspect",
    ("DELETE", "/api/tokens"): "read write introspect",
    ("PUT", "/api/tokens"): "",
    ("POST", "/api/tokens/introspect"): "introspect",
    ("POST", "/api/users/1/email-verification"): "",
    ("GET", "/api/sessions"): "",
    ("DELETE", "/api/sessions"): "",
    ("DELETE", "/api/sessions/1"): "",
    ("POST", "/api/access-tokens"): "",
    ("GET", "/api/access-tokens"): "",
    ("GET", "/api/access-tokens/1"): "",
    ("DELETE", "/api/access-tokens/1"): "",
    ("POST", "/api/access-tokens/1/rotation"): "",
    ("GET", "/api/admin/users"): "",
    ("GET", "/api/admin/users/1"): "",
    ("PUT", "/api/admin/users/1/deactivation"): "",
    ("DELETE", "/api/admin/users/1/deactivation"): "",
    ("DELETE", "/api/admin/users/1/sessions"): "",
}
PASSWORD_ONLY = {("POST", "/api/tokens")}
# Routes that take no credentials.
PUBLIC = {
    ("POST", "/api/users"),
    ("POST", "/api/tokens/revoke"),
    ("POST", "/api/tokens/reset"),
    ("PUT", "/api/tokens/reset"),
    ("POST", "/api/email-verifications"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/<name>"),
    ("GET", "/openapi.json"),
    ("GET", "/reset"),
    ("GET", "/verify"),
    ("GET", "/pages/<name>"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
}
