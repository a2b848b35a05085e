"""How Gunicorn serves the application; `boot.sh` starts it, with the settings of config.py."""

from typing import Any

from config import Config

wsgi_app = "microblog_api:app"
bind = f"[{Config.HOST}]:{Config.PORT}" if ":" in Config.HOST else f"{Config.HOST}:{Config.PORT}"
worker_class = "gthread"
workers = Config.WEB_CONCURRENCY
threads = Config.WEB_THREADS
preload_app = True  # a mistake in the configuration is told once, before anything is served
graceful_timeout = 30  # seconds for requests in flight after SIGTERM
# Bytes; room for a header that is refused with 401 in JSON instead of Gunicorn's 400 in HTML.
limit_request_field_size = 16_384

loglevel = "warning"
accesslog = "-"
# Neither the query string nor the user of Basic credentials, both of which a
# client may have put a token into.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s %(M)sms'


def when_ready(server: Any) -> None:
    print(f"Microblog API is ready at {server.LISTENERS[0]}", flush=True)
