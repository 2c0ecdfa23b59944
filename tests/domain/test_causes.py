from __future__ import annotations

import pytest

from rowmill.domain.causes import HOPELESS, PASSING, Cause, cause_of_text

URL = "Reached maximum retries for URL http://127.0.0.1:9701/"

# Texts of contract §5.3, users.md §4 and the recordings, whole as a server says them.
TEXTS = {
    # the app asks too often
    "Too many requests": Cause.MODEL_RATE,
    "PluginInvokeError: [models] Rate Limit Error, please slow down": Cause.MODEL_RATE,
    "litellm.RateLimitError: rate_limit_exceeded": Cause.MODEL_RATE,
    "openai: rate-limited, retry later": Cause.MODEL_RATE,
    "Error code: 429 - {'error': {}}": Cause.MODEL_RATE,
    "InvokeRateLimitError": Cause.MODEL_RATE,
    "Rate limit reached for gpt-4 on tokens per min (TPM): Limit 10000": Cause.MODEL_RATE,
    "Limit of 200 000 TPM hit": Cause.MODEL_RATE,
    "over 60 RPM": Cause.MODEL_RATE,
    "ThrottlingException: slow down": Cause.MODEL_RATE,
    "Sorry, you have reached the knowledge base request rate limit of your subscription.": Cause.KNOWLEDGE_RATE,
    "Your RateLimit has been exceeded": Cause.MODEL_RATE,
    # the model or the way to it
    "[models] Server Unavailable Error, upstream": Cause.MODEL_DOWN,
    "Service Unavailable": Cause.MODEL_DOWN,
    "The model is temporarily unavailable": Cause.MODEL_DOWN,
    "overloaded_error: Overloaded": Cause.MODEL_DOWN,
    "API request failed with status code 502: bad gateway": Cause.MODEL_DOWN,
    "Error code: 503": Cause.MODEL_DOWN,
    "504 Gateway Time-out": Cause.MODEL_DOWN,
    "[models] Connection Error, ": Cause.MODEL_DOWN,
    "('Connection aborted.', RemoteDisconnected('Remote end closed'))": Cause.MODEL_DOWN,
    "Connection reset by peer": Cause.MODEL_DOWN,
    "http.client.RemoteDisconnected: Remote end closed": Cause.MODEL_DOWN,
    "timed out": Cause.MODEL_DOWN,
    "Read timeout=60": Cause.MODEL_DOWN,
    "ReadTimeout: HTTPSConnectionPool": Cause.MODEL_DOWN,
    "queue listening stopped unexpectedly.": Cause.MODEL_DOWN,
    # Dify's own parts
    "Request to Plugin Daemon Service failed-500": Cause.PLUGIN,
    "PluginDaemonInnerError: killed": Cause.PLUGIN,
    "PluginInvokeError: killed by timeout": Cause.PLUGIN,
    "http://plugin_daemon:5002 refused": Cause.PLUGIN,
    "QueuePool limit of size 30 overflow 10 reached, connection timed out, timeout 30.00": Cause.DATABASE,
    "Maximum execution time exceeded": Cause.LIMIT,
    "Maximum execution steps exceeded: 501 > 500": Cause.LIMIT,
    "App execution exceeded": Cause.LIMIT,
    "Max submit count 100 of workflow thread pool reached.": Cause.LIMIT,
    "Stopped by user.": Cause.STOPPED,
    "User requested stop": Cause.STOPPED,
    # set-up and money
    "Incorrect model credentials provided": Cause.MODEL_SETUP,
    "Error code: 401 - Incorrect API key provided": Cause.MODEL_SETUP,
    "invalid api key": Cause.MODEL_SETUP,
    "No valid model provider credentials found": Cause.MODEL_SETUP,
    "provider_not_initialize": Cause.MODEL_SETUP,
    "Model provider x credentials is not initialized.": Cause.MODEL_SETUP,
    "insufficient_quota": Cause.QUOTA,
    "Error code: 402 - Insufficient Balance": Cause.QUOTA,
    "Error code: 429 - You exceeded your current quota, please check your plan": Cause.QUOTA,
    "Arrearage: Access denied": Cause.QUOTA,
    "Workflow execution quota limit reached for tenant 1": Cause.QUOTA,
    "Your quota has been exhausted": Cause.QUOTA,
    # the row's text
    "This model's maximum context length is 8192 tokens": Cause.CONTEXT,
    "context_length_exceeded": Cause.CONTEXT,
    "prompt is too long: 210000 tokens": Cause.CONTEXT,
    "too many tokens": Cause.CONTEXT,
    "input exceeds the context window": Cause.CONTEXT,
    "The response was filtered due to Azure's content management policy": Cause.MODERATION,
    "content_filter": Cause.MODERATION,
    "rejected by our safety system": Cause.MODERATION,
    "data_inspection_failed": Cause.MODERATION,
    "Your input did not pass moderation": Cause.MODERATION,
    # nodes
    f"{URL}sleep?mode=500": Cause.HTTP_NODE,
    "Reached maximum retries (0) for URL http://127.0.0.1:9701/sleep": Cause.HTTP_NODE,
    "Response size is too large, max size is 10.00 MB": Cause.HTTP_NODE,
    "HTTP request node failed": Cause.HTTP_NODE,
    "Failed to execute code, is the sandbox service running?": Cause.CODE_NODE,
    "Failed to execute code, which is likely a network issue, please check if the sandbox service is running. "
    "( Error: timed out )": Cause.SANDBOX,
    "Failed to execute code, got status code 503, please check if the sandbox service is running": Cause.SANDBOX,
    "Code execution service is unavailable": Cause.SANDBOX,
    "Code execution failed": Cause.CODE_NODE,
    "CodeNodeError: result is missing": Cause.CODE_NODE,
    "Traceback (most recent call last)": Cause.CODE_NODE,
    'File "x", line 3, in main': Cause.CODE_NODE,
    # inputs
    "query is required in input form": Cause.BAD_INPUT,
    "n in input form must be a valid number": Cause.BAD_INPUT,
    "(type 'text-input') x in input form must be a string": Cause.BAD_INPUT,
    "value does not match schema": Cause.BAD_INPUT,
    "Invalid input type for ['x']": Cause.BAD_INPUT,
    "Invalid upload file id format": Cause.BAD_FILE,
    "Detected file type does not match the specified type. Please verify the file.": Cause.BAD_FILE,
    "File validation failed for file: x.exe": Cause.BAD_FILE,
    "Number of files exceeds the maximum limit 3": Cause.BAD_FILE,
    "Invalid file url": Cause.BAD_FILE,
}


_TONGYI = '[ERROR]plugin langgenius/tongyi:0.0.33: Response: {{"status_code": {}, "code": "{}", "message": "{}"}}'

# The providers' own words, from their lists of error codes (qwen: help.aliyun.com/zh/dashscope/
# return-status-code-description; zhipu: docs.z.ai/api-reference/api-code; deepseek: api-docs.deepseek.com) and from
# reports (dify#22376, #18378, #5850), as they reach us through Dify.
PROVIDERS = {
    _TONGYI.format(429, "Throttling", "Requests throttling triggered."): Cause.MODEL_RATE,
    _TONGYI.format(429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."):
        Cause.MODEL_RATE,
    _TONGYI.format(429, "Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota limit."):
        Cause.MODEL_RATE,
    _TONGYI.format(400, "Arrearage", "Access denied, plesase make sure your account is in good standing."): Cause.QUOTA,
    _TONGYI.format(403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted."): Cause.QUOTA,
    _TONGYI.format(400, "DataInspectionFailed", "Input or output data may contain inappropriate content."):
        Cause.MODERATION,
    _TONGYI.format(400, "InvalidParameter", "Range of input length should be [1, 30720]"): Cause.CONTEXT,
    _TONGYI.format(401, "InvalidApiKey", "Invalid API-key provided."): Cause.MODEL_SETUP,
    _TONGYI.format(403, "AccessDenied.Unpurchased", "Access to model denied. Please make sure you are eligible."):
        Cause.MODEL_SETUP,
    _TONGYI.format(408, "RequestTimeOut", "Request timed out, please try again later."): Cause.MODEL_DOWN,
    "API request failed with status code 429: The throttling threshold has been reached: policy ip over ratelimit":
        Cause.MODEL_RATE,
    # deepseek
    "Error code: 402 - {'error': {'message': 'Insufficient Balance', 'type': 'unknown_error'}}": Cause.QUOTA,
    "Authentication Fails, Your api key: ****abcd is invalid": Cause.MODEL_SETUP,
    "Error code: 400 - {'error': {'message': 'Content Exists Risk'}}": Cause.MODERATION,
    "Service is too busy. We advise users to temporarily switch to alternative LLM API service providers.":
        Cause.MODEL_DOWN,
    # zhipu
    'Error code: 429, with error text {"error":{"message":"您的账户已欠费，请充值后重试。"}}': Cause.QUOTA,
    '{"error":{"code":"1113","message":"余额不足或无可用资源包,请充值。"}}': Cause.QUOTA,
    "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额。": Cause.MODEL_RATE,
    "您当前使用该API的频率过高，请降低频率，或联系客服增加限额。": Cause.MODEL_RATE,
    "您的账户已达到速率限制，请您控制请求频率": Cause.MODEL_RATE,
    "该模型当前访问量过大，请您稍后再试": Cause.MODEL_RATE,
    "该API已达今日调用次数限额，如有更多需求，请联系客服购买": Cause.QUOTA,
    "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。":
        Cause.MODERATION,
    "身份验证失败。": Cause.MODEL_SETUP,
    "模型不存在，请检查模型代码。": Cause.MODEL_SETUP,
    "Prompt 超长": Cause.CONTEXT,
    "网络错误，错误id：20240101，请稍后重试": Cause.MODEL_DOWN,
    # others
    "Your account is suspended due to insufficient balance, please recharge your account": Cause.QUOTA,
    "max organization concurrency: 3, please try again after 1 seconds": Cause.MODEL_RATE,
    "The request was rejected because it was considered high risk": Cause.MODERATION,
    "Open api qps request limit reached": Cause.MODEL_RATE,
    "Open api daily request limit reached": Cause.QUOTA,
    "RequestBurstTooFast: the request rate grew too quickly": Cause.MODEL_RATE,
    "AccountOverdueError: The request failed because your account has an overdue balance.": Cause.QUOTA,
    "InputTextSensitiveContentDetected": Cause.MODERATION,
    "Sorry, your account balance is insufficient": Cause.QUOTA,
    "System is too busy now. Please try again later.": Cause.MODEL_DOWN,
    "触发限流，请稍后重试": Cause.MODEL_RATE,
    "请求过于频繁，请稍后再试": Cause.MODEL_RATE,
    "免费额度已用完": Cause.QUOTA,
    "输入内容未通过内容安全检测": Cause.MODERATION,
    "服务器繁忙，请稍后再试": Cause.MODEL_DOWN,
    "请求超时": Cause.MODEL_DOWN,
    "API Key 无效": Cause.MODEL_SETUP,
    "输入长度超出上下文限制": Cause.CONTEXT,
    # Dify's hosted models
    "Your quota for Dify Hosted OpenAI has been exhausted. Please go to Settings -> Model Provider.": Cause.QUOTA,
}  # fmt: skip


@pytest.mark.parametrize(("text", "cause"), PROVIDERS.items())
def test_words_of_providers(text, cause):
    assert cause_of_text(text) is cause


@pytest.mark.parametrize(("text", "cause"), TEXTS.items())
def test_text(text, cause):
    assert cause_of_text(text) is cause


@pytest.mark.parametrize(("text", "cause"), TEXTS.items())
def test_case_does_not_matter(text, cause):
    assert cause_of_text(text.upper()) is cause_of_text(text.lower()) is cause


# What a text quotes (names of variables, addresses, lines) says nothing about why it failed.
QUOTES = {
    "rate_limit is required in input form": Cause.BAD_INPUT,
    "quota_exceeded in input form must be a string": Cause.BAD_INPUT,
    "query in input form must be less than 429 characters": Cause.BAD_INPUT,
    "lang in input form must be one of the following: ['timeout', 'moderation']": Cause.BAD_INPUT,
    "File validation failed for file: timeout-503.pdf": Cause.BAD_FILE,
    f"{URL}rate_limit": Cause.HTTP_NODE,
    f"{URL}moderation?n=429": Cause.HTTP_NODE,
    'File "main.py", line 429, in main: KeyError': Cause.CODE_NODE,
    'File "main.py", line 503, in main: KeyError': Cause.CODE_NODE,
}


@pytest.mark.parametrize(("text", "cause"), QUOTES.items())
def test_quotes_do_not_mislead(text, cause):
    assert cause_of_text(text) is cause


NO_CAUSE = [
    None,
    "",
    "Unknown error",
    "KeyError: 'x'",
    "cannot generate limited output",
    "row 4290 has 15030 characters",
    "smtpMessage was refused",
    "httpMock failed",
    "rpmbuild failed",
    "the word rate and the word limit",
    "quotation marks are missing",
    "order 5020 is unknown",
    "an existing connection",
    "并发流程第 3 步出错",
    "内容为空",
    "用户请求的商品不存在",
]


@pytest.mark.parametrize("text", NO_CAUSE, ids=repr)
def test_other_texts_have_no_cause(text):
    assert cause_of_text(text) is Cause.RUN_FAILED
    assert cause_of_text(text, Cause.BAD_INPUT) is Cause.BAD_INPUT


def test_only_the_start_of_a_long_text_is_read():
    assert cause_of_text("x" * 3990 + " timed out") is Cause.MODEL_DOWN
    assert cause_of_text("x" * 4000 + " timed out") is Cause.RUN_FAILED


def test_no_cause_is_both_passing_and_hopeless():
    assert not PASSING & HOPELESS
