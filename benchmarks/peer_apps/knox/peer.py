"""Django REST framework with django-rest-knox, in its default configuration."""

import os

import dj_database_url
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ["SECRET_KEY"],
    ALLOWED_HOSTS=["127.0.0.1"],
    # Persistent connections, which Django's documentation recommends.
    DATABASES={"default": dj_database_url.config(conn_max_age=600)},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "knox",
    ],
    MIDDLEWARE=[],  # Django REST framework needs none
    ROOT_URLCONF=__name__,
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    },
)
app = get_wsgi_application()

# Models and views can be imported only now.
from django.contrib.auth.models import User
from knox.models import AuthToken
from rest_framework.decorators import api_view
from rest_framework.response import Response


@api_view()
def me(request):
    return Response({"id": request.user.id, "username": request.user.username})


urlpatterns = [path("api/me", me)]


def make_token():
    call_command("migrate", verbosity=0)
    _, token = AuthToken.objects.create(User.objects.create_user("alice"))
    return token
