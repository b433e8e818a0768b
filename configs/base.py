"""Moved to `lrd_jax.config.defaults`; this name stays for one release (see docs/upgrading.md)."""

from lrd_jax.config.defaults import finish, get_config

__all__ = ["finish", "get_config"]
