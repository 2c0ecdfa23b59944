"""Why rows fail: stable names, found from Dify's texts. The advice for each is the text `advice.<cause>`.

Sources of the texts: shared contract §5.3 (Dify's source and docs) and the recorded exchanges; each line has a test.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Cause(StrEnum):
    # the way to Dify
    UNREACHABLE = "server_unreachable"
    SERVER_ERROR = "server_error"
    NOT_DIFY = "not_dify"
    REDIRECTED = "redirected"
    APP_LIMIT = "app_concurrency_limit"
    RATE_LIMIT = "rate_limit"
    EDGE_LIMIT = "edge_rate_limit"
    QUOTA = "quota_used_up"
    # the app
    BAD_KEY = "bad_key"
    FORBIDDEN = "app_forbidden"
    WRONG_MODE = "wrong_mode"
    UNPUBLISHED = "app_unpublished"
    VERSION_GONE = "workflow_version_gone"
    NOT_FOUND = "not_found"
    MODEL_SETUP = "model_not_set_up"
    # the row's data
    BAD_INPUT = "bad_input"
    BAD_FILE = "bad_file"
    TOO_LARGE = "too_large"
    FILE_GONE = "file_gone"
    """the kept copy of an input file is not in the data folder any more"""
    UPLOAD_FAILED = "upload_failed"
    # inside the run
    MODEL_RATE = "model_rate_limit"
    MODEL_DOWN = "model_unavailable"
    KNOWLEDGE_RATE = "knowledge_rate_limit"
    PLUGIN = "plugin_failed"
    DATABASE = "dify_database_busy"
    LIMIT = "run_limit_reached"
    CONTEXT = "context_too_long"
    MODERATION = "content_refused"
    HTTP_NODE = "http_node_failed"
    CODE_NODE = "code_node_failed"
    RUN_FAILED = "run_failed"
    STOPPED = "stopped"
    NEEDS_PERSON = "needs_person"
    # what became of it is not known
    REPLY_LOST = "reply_lost"
    NEVER_ENDED = "run_never_ended"
    NOT_STARTED = "run_not_started"


# Failed runs that may go well a moment later.
PASSING = frozenset(
    {Cause.MODEL_RATE, Cause.MODEL_DOWN, Cause.KNOWLEDGE_RATE, Cause.PLUGIN, Cause.DATABASE, Cause.SERVER_ERROR}
)

# Failed runs after which every further row would fail, and cost, the same.
HOPELESS = frozenset({Cause.MODEL_SETUP, Cause.QUOTA})

_TEXTS: tuple[tuple[str, Cause], ...] = (
    # First those that quote a name or an address, which may read like any of the others.
    (r"is required in input form|in input form must|must be a string|does not match schema|invalid input type",
     Cause.BAD_INPUT),
    (r"invalid upload file|detected file type|file validation failed|number of files|invalid file url", Cause.BAD_FILE),
    (r"reached maximum retries( \(\d+\))? for url|response size is too large|http request node", Cause.HTTP_NODE),
    (r"knowledge base request rate limit", Cause.KNOWLEDGE_RATE),
    (r"stopped by user|user requested stop", Cause.STOPPED),
    (r"maximum execution (time|steps) exceeded|app execution exceeded|max submit count", Cause.LIMIT),
    (r"incorrect model credentials|incorrect api key|invalid api key|no valid model provider cred", Cause.MODEL_SETUP),
    (r"not_initialize|credentials? (is|are) not initialized", Cause.MODEL_SETUP),
    (r"insufficient[_ ](quota|balance|funds)|exceeded your current quota|arrearage", Cause.QUOTA),
    (r"quota[_ ](has been |limit |is )?(exceeded|reached|exhausted|used)", Cause.QUOTA),
    (r"context[_ ]length|maximum context|prompt is too long|too many tokens|context window", Cause.CONTEXT),
    (r"content[_ ](filter|policy|management)|moderation|safety system|data_inspection_failed", Cause.MODERATION),
    (r"too many requests|(?<!gene)rate[-_ ]?limit|(?<!line )\b429\b|throttl|tokens per min|\b[rt]pm\b",
     Cause.MODEL_RATE),
    (r"queuepool limit", Cause.DATABASE),
    (r"killed by timeout|plugin daemon|plugindaemon|plugin_daemon", Cause.PLUGIN),
    (r"server unavailable|service unavailable|temporarily unavailable|overloaded|(?<!line )\b50[234]\b",
     Cause.MODEL_DOWN),
    (r"connection (error|aborted|reset)|timed? ?out|remotedisconnected|queue listening stopped", Cause.MODEL_DOWN),
    (r"sandbox|code execution|codenodeerror|traceback|line \d+, in", Cause.CODE_NODE),
)  # fmt: skip

_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), cause) for pattern, cause in _TEXTS)

# Enough of a text to know its cause; a model's error can be a whole page.
_READ = 4000


def cause_of_text(text: str | None, otherwise: Cause = Cause.RUN_FAILED) -> Cause:
    """The cause that an error text of a run tells of."""
    head = (text or "")[:_READ]
    return next((cause for pattern, cause in _PATTERNS if pattern.search(head)), otherwise)
