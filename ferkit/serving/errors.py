"""How the server says no."""


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that is not served.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: one or two sentences for people: what was expected, and the remedy.
        retry_after_s: when to try again, if that may help.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s

    @property
    def close_code(self) -> int:
        """The code with which a WebSocket is closed: 4000 more than the status."""
        return 4000 + self.status

    @property
    def headers(self) -> dict[str, str]:
        """What belongs into the head of the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, str]:
        """The answer."""
        return {"code": self.code, "message": self.message}


def own_fault(incident: str) -> Refused:
    """What a client is told when the server itself failed."""
    return Refused(
        500, "fault", f"A fault of the server; whoever runs it finds it in the log under {incident}."
    )
