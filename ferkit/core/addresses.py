"""Tell addresses such as ``rtsp://user:password@host/…`` from files, and show them without their secrets."""

import re

_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# What follows "user:" up to the last @ of the host's part; where a slash stands in the password, of the whole word.
_PASSWORD = re.compile(
    r"([a-z][a-z0-9+.-]+://[^\s/?#@:\[]*:)(?:[^\s/?#]*(?=@)|(?!\d*(?:[/?#\s]|$))\S*(?=@))", re.IGNORECASE
)
_PARAMETER = re.compile(
    r"([?&;][\w.-]*(?:pass(?:word|wd)?|pwd|token|secret|api_?key|auth|sig(?:nature)?)[\w.-]*=)[^&#\s'\"]+",
    re.IGNORECASE,
)


def is_address(spec: str) -> bool:
    """Whether ``spec`` is an address such as ``rtsp://…`` or ``http://…``."""
    return bool(_ADDRESS.match(spec))


def is_stored(spec: str) -> bool:
    """Whether ``spec`` is an address at which fsspec lists files, such as ``s3://…``: no page and no stream."""
    if not is_address(spec):
        return False
    import fsspec

    kind = re.split("://|::", spec, maxsplit=1)[0].lower()
    return kind not in ("http", "https", "file", "local") and kind in fsspec.available_protocols()


def mask_credentials(text: str) -> str:
    """Replace passwords, and parameters such as ``token=``, of all addresses in ``text`` by an ellipsis."""
    return _PARAMETER.sub(r"\1…", _PASSWORD.sub(r"\1…", text))
