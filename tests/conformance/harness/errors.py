"""What can stop a conformance run. A failed test is a result, not an error."""


class ConformanceError(Exception):
    """The run cannot go on; the message says what to do about it."""
