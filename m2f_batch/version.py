"""The version, for both distributions of this package, and for its code where it runs without being installed."""

VERSION = "0.1.0"
