FROM python:3.13-slim

# An environment of its own, active for every command: boot.sh finds the
# requirements installed and installs nothing when a container starts.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN python -m venv "$VIRTUAL_ENV"

WORKDIR /srv/microblog
COPY requirements.txt venv.sh ./
RUN bash -c '. ./venv.sh && use_requirements requirements.txt'
COPY . .

# The only folder the application writes to: its SQLite database and the key
# that belongs to it. With PostgreSQL neither is used.
RUN useradd --system microblog && install -d -o microblog -m 700 instance
USER microblog
VOLUME /srv/microblog/instance
ENV HOST=0.0.0.0 DATABASE_URL=sqlite:///instance/app.db
EXPOSE 5000
CMD ["./boot.sh"]
