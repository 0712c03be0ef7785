"""What the commands of `python -m app.admin` share: their settings, and how they print.

The settings are those of the services; a command demands only what it uses.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.errors import BadConfiguration

AdminSetting = Literal["aws_default_region", "queue_url", "group_face_queue_url", "gallery_images_mongo_uri"]

Say = Callable[[str, dict[str, object]], None]
"""Prints one item: its line for people, or its fields for scripts."""


class AdminSettings(BaseSettings):
    """Meaning and form as in app.config.Settings."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    aws_default_region: str | None = None
    queue_url: str | None = None
    group_face_queue_url: str | None = None
    gallery_images_mongo_uri: SecretStr | None = None

    def need(self, name: AdminSetting) -> str:
        """The setting's value. Raises BadConfiguration where it is not set."""
        value: str | SecretStr | None = getattr(self, name)
        if value is None:
            raise BadConfiguration(f"{name.upper()} is not set.")
        return value.get_secret_value() if isinstance(value, SecretStr) else value
