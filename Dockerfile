FROM python:3.13-slim

# An environment of its own, active for every command: boot.sh finds the
# requirements installed and installs nothing when a container starts.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python -m venv "$VIRTUAL_ENV"

WORKDIR /srv/microblog
COPY requirements.txt venv.sh ./
RUN bash -c '. ./venv.sh && use_requirements requirements.txt'
COPY . .

# The only folder the application writes to, apart from /tmp: its SQLite database and
# the key that belongs to it. With PostgreSQL neither is used. Files that are given to
# the container must be readable by this number; Kubernetes wants a number, too.
RUN groupadd --gid 10001 microblog \
    && useradd --no-create-home --uid 10001 --gid 10001 microblog \
    && install -d -o 10001 -g 10001 -m 700 instance
USER 10001:10001
VOLUME /srv/microblog/instance
ENV HOST=0.0.0.0 DATABASE_URL=sqlite:///instance/app.db
EXPOSE 5000
# The start waits up to a minute for its database.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "deployment/docker/healthcheck.py"]
CMD ["./boot.sh"]
