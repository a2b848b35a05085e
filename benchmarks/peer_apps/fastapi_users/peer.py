"""fastapi-users with its database strategy, as in the full example of its documentation."""

import os
from typing import Annotated

import sqlalchemy as sa
import sqlalchemy.orm as so
from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, IntegerIDMixin
from fastapi_users.authentication import AuthenticationBackend, BearerTransport
from fastapi_users.authentication.strategy import DatabaseStrategy
from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTable, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import (
    SQLAlchemyAccessTokenDatabase,
    SQLAlchemyBaseAccessTokenTable,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
url = sa.make_url(os.environ["DATABASE_URL"])
engine = create_async_engine(url.set(drivername=ASYNC[url.drivername]))
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(so.DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTable[int], Base):
    id: so.Mapped[int] = so.mapped_column(primary_key=True)
    username: so.Mapped[str] = so.mapped_column(sa.String(64), unique=True)


class AccessToken(SQLAlchemyBaseAccessTokenTable[int], Base):
    user_id: so.Mapped[int] = so.mapped_column(sa.ForeignKey("user.id", ondelete="cascade"))


class UserManager(IntegerIDMixin, BaseUserManager[User, int]):
    pass


async def get_session():
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


async def get_user_manager(session: Session):
    yield UserManager(SQLAlchemyUserDatabase(session, User))


def get_strategy(session: Session):
    return DatabaseStrategy(SQLAlchemyAccessTokenDatabase(session, AccessToken), 3600)


backend = AuthenticationBackend("database", BearerTransport("auth/login"), get_strategy)
fastapi_users = FastAPIUsers[User, int](get_user_manager, [backend])
CurrentUser = Annotated[User, Depends(fastapi_users.current_user(active=True))]
app = FastAPI()


@app.get("/api/me")
async def me(user: CurrentUser):
    return {"id": user.id, "username": user.username}


async def make_token():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session:
        user = User(username="alice", email="alice@example.com", hashed_password="")
        session.add(user)
        await session.commit()
        return await get_strategy(session).write_token(user)
