"""The addresses of the site: all are the chat's."""
from django.urls import include, path

urlpatterns = [path("", include("chat.urls"))]
