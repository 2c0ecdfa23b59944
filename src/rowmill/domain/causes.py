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
    VERSION_REFUSED = "workflow_version_not_allowed"
    NOT_FOUND = "not_found"
    MODEL_SETUP = "model_not_set_up"
    # the row's data
    BAD_INPUT = "bad_input"
    BAD_FILE = "bad_file"
    TOO_LARGE = "too_large"
    FILE_GONE = "file_gone"
    """the kept copy of an input file is not in the data folder any more"""
    UPLOAD_FAILED = "upload_failed"
    # the conversation that the row is a turn of
    CONVERSATION_GONE = "conversation_gone"
    CONVERSATION_BROKEN = "conversation_broken"
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
    SANDBOX = "code_sandbox_busy"
    RUN_FAILED = "run_failed"
    STOPPED = "stopped"
    NEEDS_PERSON = "needs_person"
    # its content ends the whole process
    KILLS_PROCESS = "kills_process"
    # what became of it is not known
    REPLY_LOST = "reply_lost"
    NEVER_ENDED = "run_never_ended"
    NOT_STARTED = "run_not_started"


# Failed runs that may go well a moment later.
PASSING = frozenset(
    {
        Cause.MODEL_RATE,
        Cause.MODEL_DOWN,
        Cause.KNOWLEDGE_RATE,
        Cause.PLUGIN,
        Cause.DATABASE,
        Cause.SANDBOX,
        Cause.SERVER_ERROR,
    }
)

# Failed runs after which every further row would fail, and cost, the same.
HOPELESS = frozenset({Cause.MODEL_SETUP, Cause.QUOTA})

# The first line that is found in the text counts. Chinese lines: the words of the providers there (qwen, zhipu,
# deepseek, moonshot, volcengine, baidu …), which reach us inside Dify's texts.
_TEXTS: tuple[tuple[str, Cause], ...] = (
    # First those that quote a name or an address, which may read like any of the others.
    (r"is required in input form|in input form must|must be a string|does not match schema", Cause.BAD_INPUT),
    (r"invalid input type", Cause.BAD_INPUT),
    (r"invalid upload file|detected file type|file validation failed|number of files|invalid file url", Cause.BAD_FILE),
    (r"reached maximum retries( \(\d+\))? for url|response size is too large|http request node", Cause.HTTP_NODE),
    (r"knowledge base request rate limit", Cause.KNOWLEDGE_RATE),
    (r"stopped by user|user requested stop", Cause.STOPPED),
    (r"maximum execution (time|steps) exceeded|app execution exceeded|max submit count", Cause.LIMIT),
    # The model's set-up.
    (r"incorrect model credentials|incorrect api[- ]key|invalid api[-_ ]?key|no valid model provider cred",
     Cause.MODEL_SETUP),
    (r"not_initialize|credentials? (is|are) not initialized|invalid authentication", Cause.MODEL_SETUP),
    (r"authentication fail(s|ed)|access to model denied|model does not exist", Cause.MODEL_SETUP),
    (r"身份验证失败|鉴权失败|令牌已过期|模型不存在", Cause.MODEL_SETUP),
    (r"(密钥|api[-_ ]?key).{0,6}(无效|错误|过期)|无效的.{0,6}(密钥|api[-_ ]?key)", Cause.MODEL_SETUP),
    # Money. What qwen calls an allocated quota is tokens per minute, and passes.
    (r"throttling|allocated quota exceeded", Cause.MODEL_RATE),
    (r"insufficient[_ ](\w+ )?(quota|balance|funds|credits?)|balance is insufficient|overdue balance", Cause.QUOTA),
    (r"exceeded your current quota|exceeded_current_quota|arrearage|in arrears|in good standing", Cause.QUOTA),
    (r"quota[_ ](.{0,60} )?(exceeded|reached|exhausted|used)|free tier of the model|daily request limit", Cause.QUOTA),
    (r"余额不足|欠费|请.{0,4}充值|资源包", Cause.QUOTA),
    (r"(额度|配额).{0,6}(不足|用尽|用完|耗尽)|调用次数.{0,4}(限额|上限)", Cause.QUOTA),
    # The row's text.
    (r"context[_ ]length|maximum context|prompt is too long|too many tokens|context window", Cause.CONTEXT),
    (r"range of input length|max input characters", Cause.CONTEXT),
    (r"prompt ?超长|(输入|上下文|文本).{0,6}(超长|过长|超出|超过)", Cause.CONTEXT),
    (r"content[_ ](filter|policy|management)|moderation|safety system|data_?inspection_?failed", Cause.MODERATION),
    (r"(inappropriate|sensitive) ?content|content exists risk|considered high risk", Cause.MODERATION),
    (r"内容安全|敏感(内容|信息|词)|不安全或敏感|内容.{0,6}(违规|敏感)|安全审核", Cause.MODERATION),
    # The model's pace.
    (r"too many requests|(?<!gene)rate[-_ ]?limit|(?<!line )\b429\b|throttl|tokens per min|\b[rt]pm\b",
     Cause.MODEL_RATE),
    (r"organization concurrency|concurrency usage|qps request limit|requestbursttoofast", Cause.MODEL_RATE),
    (r"限流|降低并发|并发.{0,6}(过高|超限|超过|上限|已达|限制)", Cause.MODEL_RATE),
    (r"(频率|速率).{0,6}(过高|过快|超限|限制)|请求.{0,4}(过多|过于频繁)|访问量过大", Cause.MODEL_RATE),
    # Dify's own parts.
    (r"queuepool limit", Cause.DATABASE),
    (r"killed by timeout|plugin daemon|plugindaemon|plugin_daemon", Cause.PLUGIN),
    (r"network issue.{0,40}sandbox|sandbox.{0,80}(timed? ?out|50[234])", Cause.SANDBOX),
    (r"code execution service is unavailable|failed to execute code, got status code 50[234]", Cause.SANDBOX),
    # The model, or the way to it.
    (r"server unavailable|service unavailable|temporarily unavailable|overloaded|(?<!line )\b50[234]\b|is too busy",
     Cause.MODEL_DOWN),
    (r"connection (error|aborted|reset)|timed? ?out|remotedisconnected|queue listening stopped", Cause.MODEL_DOWN),
    (r"(系统|服务)器?.{0,4}(繁忙|不可用|超时)|请求超时|网络错误", Cause.MODEL_DOWN),
    (r"sandbox|code execution|codenodeerror|traceback|line \d+, in", Cause.CODE_NODE),
)  # fmt: skip

_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), cause) for pattern, cause in _TEXTS)

# Enough of a text to know its cause; a model's error can be a whole page.
_READ = 4000


def cause_of_text(text: str | None, otherwise: Cause = Cause.RUN_FAILED) -> Cause:
    """The cause that an error text of a run tells of."""
    head = (text or "")[:_READ]
    return next((cause for pattern, cause in _PATTERNS if pattern.search(head)), otherwise)
