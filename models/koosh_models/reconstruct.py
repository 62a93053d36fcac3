"""The old place of `koosh_models.reconstruction`."""

from koosh_models.reconstruction import *  # noqa: F403
