"""Every error that reco_ray raises on purpose.

RecoError
├── ConfigError      a configuration that cannot be run
├── DataError        data that cannot be used
│   └── SchemaError  a table whose columns or types are not the contract's
├── ArtifactError    an output that is missing, incomplete, or disagrees with its manifest
├── NotReadyError    a service that is not up yet, or has gone
└── StaleWriterError another process writes in our place

A message says what was found, what was expected, and what to do.
"""

__all__ = ["ArtifactError", "ConfigError", "DataError", "NotReadyError", "RecoError", "SchemaError", "StaleWriterError"]


class RecoError(Exception):
    """Base of all errors raised by reco_ray. Programming errors are not among them and are raised as they are."""


class ConfigError(RecoError):
    """The configuration cannot be run: an unknown key, a value out of range, parts that do not fit together."""


class DataError(RecoError):
    """The data cannot be used: empty, malformed, or too little for what was asked."""


class SchemaError(DataError):
    """A table's columns or types differ from `reco_ray.schema`."""


class ArtifactError(RecoError):
    """A stored output is missing, incomplete, or does not match its manifest."""


class NotReadyError(RecoError):
    """A store, cluster or release is not up; trying again later may succeed."""


class StaleWriterError(RecoError):
    """Another process has written what this one was about to write; it looks how far the other came and goes on from there."""
