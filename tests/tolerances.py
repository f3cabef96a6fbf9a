"""Every tolerance of the tests, with the error that was measured and why it may be so large."""

from __future__ import annotations
