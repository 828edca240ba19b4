//! Every error a client can meet, one row per code: what makes an [`ApiError`](super::ApiError), the README's
//! table, the OpenAPI document's, and what the tests walk. Plain data, so that the tests of the whole daemon read the same rows.

/// One code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Empty for `null`.
    pub(crate) code: &'static str,
    pub(crate) status: u16,
    /// `type`.
    pub(crate) kind: &'static str,
    pub(crate) param: Param,
    /// Where there is a `Retry-After`.
    pub(crate) retry_after: Option<RetryAfter>,
    /// Whether the same request may succeed later: sent as `x-should-retry`.
    pub(crate) retry: bool,
    pub(crate) when: &'static str,
}

/// What `param` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Param {
    /// `null`.
    Null,
    /// The field or item at fault, where one is.
    Field,
    /// Always this field.
    Is(&'static str),
}

/// How `Retry-After` comes about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryAfter {
    pub(crate) how: &'static str,
    /// Seconds, where nothing better is known; `None` leaves the header out then.
    pub(crate) otherwise: Option<u64>,
}

const INVALID: &str = "invalid_request_error";
const AUTHENTICATION: &str = "authentication_error";
const LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

/// The upstream's wait, as far as it can be known.
const UPSTREAM_WAIT: &str =
    "what the backend names; else the app-server's last pause between two attempts; else 5";

const fn row(status: u16, kind: &'static str, code: &'static str, when: &'static str) -> Row {
    Row { code, status, kind, param: Param::Null, retry_after: None, retry: false, when }
}

/// 400 about a field.
const fn invalid(code: &'static str, when: &'static str) -> Row {
    row(400, INVALID, code, when).about(Param::Field)
}

impl Row {
    const fn at(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    const fn about(mut self, param: Param) -> Self {
        self.param = param;
        self
    }

    const fn retry(mut self) -> Self {
        self.retry = true;
        self
    }

    const fn after(mut self, how: &'static str, otherwise: Option<u64>) -> Self {
        self.retry_after = Some(RetryAfter { how, otherwise });
        self
    }
}

/// The row of `code`, where it is one of ours: the first, where it has several statuses.
pub(crate) fn find(code: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.code == code)
}

/// The row of `code` at `status`.
pub(crate) fn find_at(code: &str, status: u16) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.code == code && row.status == status)
}

/// All of them, in the order of the README.
pub(crate) static ROWS: &[Row] = &[
    row(400, INVALID, "invalid_http", "the request line or a header cannot be read; the connection closes"),
    row(400, INVALID, "invalid_json", "the body is no JSON object"),
    invalid("", "the request is wrong in a way that has no code of its own, or the backend refused it without one; a code of the backend's is passed on"),
    invalid("missing_required_parameter", "a field is missing"),
    invalid("invalid_type", "a field has the wrong JSON type"),
    invalid("invalid_value", "a value is not one of those allowed"),
    invalid("invalid_parameter_combination", "two fields contradict one another"),
    invalid("mutually_exclusive_parameters", "two fields of which a request has one"),
    invalid("duplicate_item", "an item has the id of another one of its conversation"),
    invalid("empty_array", "a list wants an entry"),
    invalid("array_above_max_length", "a list is too long"),
    invalid("object_above_max_properties", "an object has too many entries"),
    invalid("string_above_max_length", "a text is too long"),
    invalid("string_below_min_length", "a text is too short"),
    invalid("integer_above_max_value", "a number is too large"),
    invalid("integer_below_min_value", "a number is too small"),
    invalid("decimal_above_max_value", "a number is too large"),
    invalid("decimal_below_min_value", "a number is too small"),
    invalid("unknown_task_class", "no such task class; the message names those there are"),
    invalid("unsupported_parameter", "a field that cannot be had here; one without effect under `requests.strict_params`"),
    invalid("unsupported_value", "a value that cannot be had here, or not with this model"),
    invalid("unsupported_tool", "a tool that is not served"),
    invalid("invalid_json_schema", "strict mode refuses the schema; the message has the place of the first offence"),
    invalid("invalid_image_url", "an image's address cannot be used"),
    invalid("failed_to_download_image", "an image could not be fetched"),
    invalid("invalid_base64_image", "an inline image is not base64"),
    invalid("empty_image_file", "an image is empty"),
    invalid("image_file_too_large", "an image is larger than `images.max_bytes`"),
    invalid("unsupported_image_media_type", "an image is of a kind that is not taken"),
    invalid("image_parse_error", "an image cannot be read"),
    invalid("invalid_file_url", "a file's address cannot be used"),
    invalid("failed_to_download_file", "a file could not be fetched"),
    invalid("invalid_base64_file", "an inline file is not base64"),
    invalid("empty_file", "a file is empty"),
    invalid("file_too_large", "a file, its text or its pages are more than `files.*` allows"),
    invalid("unsupported_file", "a file is neither text nor a PDF; the message says what to send"),
    invalid("encrypted_file", "a PDF wants a password"),
    invalid("file_without_text", "a PDF has no text, as scans have none"),
    invalid("file_parse_error", "a PDF cannot be read, or not within `files.pdf_memory` and `files.pdf_timeout`"),
    invalid("invalid_base64_audio", "audio is not base64"),
    invalid("invalid_audio", "audio is not of the format it is said to be"),
    invalid("audio_file_too_large", "audio is larger than `audio.max_bytes`"),
    invalid("content_policy_violation", "the backend refuses the input by its policies").about(Param::Null),
    invalid("context_length_exceeded", "the input does not fit the model").about(Param::Is("input")),
    invalid("previous_response_not_found", "unknown, expired, deleted, or another key's; the log and `/v1/health` tell which")
        .about(Param::Is("previous_response_id")),
    invalid("continuation_account_mismatch", "the response was made with another login (`continuation.on_account_change`)")
        .about(Param::Is("previous_response_id")),
    invalid("chain_too_long", "the conversation has more items than `continuation.max_chain_items`")
        .about(Param::Is("previous_response_id")),
    invalid("previous_response_in_progress", "a background response that has not ended cannot be continued yet")
        .about(Param::Is("previous_response_id")),
    invalid("invalid_stream_id", "a WebSocket's `stream_id` is not 1 to 256 letters, digits, `_`, `-` and `.`")
        .about(Param::Is("stream_id")),
    invalid("websocket_stream_limit_reached", "a WebSocket has 32 values of `stream_id` already")
        .about(Param::Is("stream_id")),
    invalid("websocket_connection_limit_reached", "a WebSocket is older than `websocket.max_age`: open another one")
        .about(Param::Null),
    invalid("stream_expired", "the events of a background response are no longer kept, or those of another bridge's (`background.*`); it can still be read")
        .about(Param::Is("stream")),
    invalid("conversation_locked", "a background response goes on with the conversation; try again when it has ended")
        .about(Param::Is("conversation")),
    invalid("conversation_too_long", "the conversation has more items than `continuation.max_chain_items`")
        .about(Param::Is("conversation")),
    invalid("invalid_encrypted_content", "a compaction item was changed, or is another key's, another bridge's or another service's"),
    row(401, INVALID, "invalid_api_key", "no token, or a wrong one"),
    row(401, AUTHENTICATION, "login_required", "nobody is logged in, or the login has run out: `codex login`"),
    row(403, INVALID, "origin_not_allowed", "a web page calls that `server.allowed_origins` does not name"),
    row(403, INVALID, "host_not_allowed", "a `Host` that is not ours"),
    invalid("model_not_found", "no such model, or not for this account").at(404).about(Param::Is("model")),
    row(403, INVALID, "model_not_found", "a model that the key may not use (`models` of the key)"),
    row(404, INVALID, "response_not_found", "no such stored response: unknown, expired, deleted, another key's, or made with `store: false`"),
    row(404, INVALID, "conversation_not_found", "no such conversation: unknown, expired, deleted, or another key's").about(Param::Field),
    row(404, INVALID, "item_not_found", "the conversation has no such item"),
    row(404, INVALID, "completion_not_found", "no such stored chat completion: unknown, expired, deleted, another key's, or made without `store: true`"),
    row(404, INVALID, "file_not_found", "no such file: unknown, expired, deleted, or another key's").about(Param::Is("id")),
    row(404, INVALID, "batch_not_found", "no such batch: unknown, expired, or another key's").about(Param::Is("id")),
    row(404, INVALID, "unknown_url", "no such route"),
    row(404, INVALID, "endpoint_not_served", "an official route that is not served"),
    row(405, INVALID, "method_not_supported", "the route has other methods"),
    row(408, INVALID, "request_timeout", "the body did not arrive within `server.body_timeout`, an upload within `batches.upload_timeout`").retry(),
    row(409, INVALID, "batch_not_cancellable", "the batch has ended, or is about to"),
    row(413, INVALID, "request_too_large", "the body is larger than `server.max_body_bytes`, an uploaded file than `batches.max_file_bytes`"),
    row(414, INVALID, "uri_too_long", "the request's address is too long; the connection closes"),
    row(415, INVALID, "unsupported_media_type", "the body is no JSON (of an upload: no `multipart/form-data`) by its type, or is compressed"),
    row(426, INVALID, "upgrade_required", "a GET of `/v1/responses` that asks for no WebSocket"),
    row(429, LIMIT, "rate_limit_exceeded", "our queue or a WebSocket's is full, the key's requests or tokens a minute are used up, or the backend refuses the rate")
        .retry()
        .after("the queue's pace; the time until the key has enough again; upstream, what the backend names; else the app-server's last pause between two attempts; else 5", Some(5)),
    row(429, LIMIT, "usage_limit_reached", "the account's usage window, budget or quota is used up, or what is left of it is the owner's (`upstream.reserve_percent`); the message names the reset")
        .after("until the window starts anew, where that is known", None),
    row(429, LIMIT, "too_many_failed_keys", "too many wrong tokens from this address, or too many at once")
        .after("when the next one is looked at", Some(1)),
    row(431, INVALID, "request_header_fields_too_large", "the request's head is too large; the connection closes"),
    row(500, SERVER, "internal_error", "a fault of the bridge").retry(),
    row(502, SERVER, "upstream_error", "the backend failed, after all retries of the app-server's").retry(),
    row(502, SERVER, "upstream_refused", "the backend refused, and the app-server saw no use in a retry"),
    row(502, SERVER, "stream_disconnected", "the answer was cut off upstream, at every retry").retry(),
    row(502, SERVER, "retry_diverged", "a retry of the app-server's said something else than what had been sent").retry(),
    row(502, SERVER, "answer_not_passed_on", "the model answered with something that the app-server does not pass on, most likely a refusal"),
    row(502, SERVER, "context_compacted", "the app-server rewrote the conversation; the answer is not used"),
    row(502, SERVER, "compaction_lost", "the app-server compacted the conversation and has not told what it made of it").retry(),
    row(502, SERVER, "lost_turn", "the turn ended without a word of how").retry(),
    row(502, SERVER, "events_overrun", "the answer came faster than it could be taken in").retry(),
    row(502, SERVER, "answer_too_large", "the answer is larger than `turn.max_output_bytes`"),
    row(502, SERVER, "tool_choice_not_honoured", "the answer lacks the call that was required, and asking once more did not help"),
    row(502, SERVER, "invalid_tool_input", "a tool was called with what its `strict: true` schema or grammar does not allow, and asking once more did not help, or came too late in a stream"),
    row(502, SERVER, "invalid_structured_output", "the answer has not the form that was asked for, and one repair did not help"),
    row(502, SERVER, "app_server_connection_lost", "the connection to the app-server broke under the call, after something was told or twice").retry(),
    row(502, SERVER, "app_server_unreadable", "the app-server speaks another protocol"),
    row(503, SERVER, "server_overloaded", "the backend or the app-server has too much to do, or there is no room for the body (`server.body_memory`)").retry().after(UPSTREAM_WAIT, Some(5)),
    row(503, SERVER, "app_server_unavailable", "there is no app-server to ask, for now").retry().after("2", Some(2)),
    row(503, SERVER, "upstream_unavailable", "the backend has failed too often of late (`breaker.mode = \"enforce\"`)").retry().after("until the next probe of the backend", None),
    row(503, SERVER, "store_unavailable", "what is referred to may be in the response store, which is down").retry().after("2", Some(2)),
    row(503, SERVER, "store_full", "what was to be kept is not: the store is full (`store.max_document_bytes`, `batches.max_files_bytes`) or takes no changes"),
    row(503, SERVER, "bridge_restarted", "in a background response: the bridge ended after its stream had begun, or three times under it").retry(),
    row(503, SERVER, "too_many_connections", "as many connections as `server.max_connections` have requests; the connection closes")
        .retry()
        .after("1", Some(1)),
    row(503, SERVER, "file_reader_unavailable", "the process that reads PDFs could not be started").retry(),
    row(503, SERVER, "shutting_down", "the bridge is stopping").retry().after("5", Some(5)),
    row(503, SERVER, "interrupted", "the turn was stopped, by the bridge on its way down or by somebody else").retry(),
    row(504, SERVER, "timeout", "a limit of `turn.*` or `app_server.*` passed").retry(),
];
