"""The version, which the package and the wisdom that it writes carry."""

__version__ = "0.1.0"
