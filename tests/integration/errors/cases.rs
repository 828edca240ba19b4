//! What brings each row about.

use std::time::Duration;

use codex_bridge::config::Config;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::peer::Turn;

pub(super) struct Case {
    pub(super) code: &'static str,
    /// Where it wants other settings.
    pub(super) configure: Option<fn(&mut Config)>,
    pub(super) play: Play,
}

pub(super) enum Play {
    /// Bodies that are refused before any turn; `None` where the API has no such field.
    Body { responses: Option<Value>, chat: Option<Value> },
    /// Good bodies under these headers.
    Headers(Vec<(&'static str, &'static str)>),
    /// This request, which ends its connection.
    Raw(String),
    /// The connection is lost under its turn.
    Lost,
    /// A good request whose turn goes so once it has begun, or once it has said "half ".
    Turn(fn(&Daemon, &Turn)),
    /// A good request, where the app-server refuses this method.
    Refused { method: &'static str, code: i64 },
    /// These bodies, whose turns say `text`, twice.
    Answered { responses: Value, chat: Value, text: &'static str },
    /// What cannot be had from outside, or not in this way: the test that plays it, and its file.
    Test { file: &'static str, name: &'static str },
}

const PNG: &str = "data:image/png;base64,";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = requests();
    cases.extend(kept());
    cases.extend(images());
    cases.extend(files());
    cases.extend(audio());
    cases.extend(edges());
    cases.extend(elsewhere());
    cases.extend(turns());
    cases.extend(answers());
    cases
}

fn case(code: &'static str, play: Play) -> Case {
    Case { code, configure: None, play }
}

fn with(code: &'static str, configure: fn(&mut Config), play: Play) -> Case {
    Case { code, configure: Some(configure), play }
}

/// `fields` beside a good input.
fn fields(code: &'static str, responses: Option<Value>, chat: Option<Value>) -> Case {
    let merged = |mut body: Value, fields: Option<Value>| {
        let fields = fields?;
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        Some(body)
    };
    let responses = merged(json!({"input": "hi"}), responses);
    let chat = merged(json!({"messages": [{"role": "user", "content": "hi"}]}), chat);
    case(code, Play::Body { responses, chat })
}

fn both(code: &'static str, same: &Value) -> Case {
    fields(code, Some(same.clone()), Some(same.clone()))
}

fn requests() -> Vec<Case> {
    let tools: Vec<Value> = (0..129).map(|n| json!({"type": "function", "name": format!("f{n}")})).collect();
    let pairs: serde_json::Map<String, Value> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let format = json!({"type": "json_schema", "name": "f", "strict": true, "schema": schema});
    let chat_format =
        json!({"type": "json_schema", "json_schema": {"name": "f", "strict": true, "schema": schema}});
    let function = json!({"name": "f"});
    vec![
        case("invalid_json", Play::Raw(posted("application/json", "{"))),
        fields("missing_required_parameter", Some(json!({"input": null})), Some(json!({"messages": null}))),
        fields("invalid_type", Some(json!({"input": 5})), Some(json!({"messages": 5}))),
        fields(
            "invalid_value",
            Some(json!({"text": {"verbosity": "loud"}})),
            Some(json!({"verbosity": "loud"})),
        ),
        fields(
            "invalid_parameter_combination",
            None,
            Some(json!({"functions": [function], "tools": [{"type": "function", "function": function}]})),
        ),
        fields("empty_array", Some(json!({"input": []})), Some(json!({"messages": []}))),
        fields(
            "array_above_max_length",
            Some(json!({"tools": tools})),
            Some(json!({"stop": ["a", "b", "c", "d", "e"]})),
        ),
        both("object_above_max_properties", &json!({"metadata": pairs})),
        both("string_above_max_length", &json!({"metadata": {"a": "x".repeat(513)}})),
        fields(
            "string_below_min_length",
            Some(json!({"input": [{"type": "function_call_output", "call_id": "", "output": "x"}]})),
            None,
        ),
        both("integer_above_max_value", &json!({"top_logprobs": 21})),
        fields(
            "integer_below_min_value",
            Some(json!({"max_output_tokens": 0})),
            Some(json!({"max_completion_tokens": 0})),
        ),
        both("decimal_above_max_value", &json!({"temperature": 2.1})),
        both("decimal_below_min_value", &json!({"temperature": -0.1})),
        both("unknown_task_class", &json!({"metadata": {"task_class": "Normalization"}})),
        fields(
            "unsupported_parameter",
            Some(json!({"prompt": {"id": "pmpt_1"}})),
            Some(json!({"logprobs": true})),
        ),
        fields(
            "unsupported_value",
            Some(json!({"reasoning": {"effort": "high"}})),
            Some(json!({"reasoning_effort": "high"})),
        ),
        fields(
            "unsupported_tool",
            Some(json!({"tools": [{"type": "code_interpreter", "container": "auto"}]})),
            Some(json!({"tools": [{"type": "code_interpreter"}]})),
        ),
        fields(
            "invalid_json_schema",
            Some(json!({"text": {"format": format}})),
            Some(json!({"response_format": chat_format})),
        ),
    ]
}

/// About what is kept.
fn kept() -> Vec<Case> {
    vec![
        fields("previous_response_not_found", Some(json!({"previous_response_id": "resp_none"})), None),
        case(
            "continuation_account_mismatch",
            Play::Test {
                file: include_str!("../errors.rs"),
                name: "a_response_of_another_login_is_not_continued",
            },
        ),
        case(
            "chain_too_long",
            Play::Test {
                file: include_str!("../../../src/bridge/tests/continuation.rs"),
                name: "a_chain_has_at_most_so_many_items",
            },
        ),
        case(
            "response_not_found",
            Play::Test {
                file: include_str!("../kept.rs"),
                name: "what_is_not_stored_or_another_keys_is_not_found",
            },
        ),
        case(
            "store_unavailable",
            Play::Test {
                file: include_str!("../../real_codex/continuation.rs"),
                name: "a_second_bridge_on_the_same_server_goes_on_with_it",
            },
        ),
        case(
            "store_full",
            Play::Test {
                file: include_str!("../conversations.rs"),
                name: "an_answer_that_its_conversation_has_no_room_for_fails",
            },
        ),
        fields("conversation_not_found", Some(json!({"conversation": "conv_none"})), None),
        fields(
            "mutually_exclusive_parameters",
            Some(json!({"conversation": "conv_none", "previous_response_id": "resp_none"})),
            None,
        ),
        case(
            "completion_not_found",
            Play::Test {
                file: include_str!("../completions.rs"),
                name: "another_keys_completion_is_not_there",
            },
        ),
        case("file_not_found", files_test("a_file_is_uploaded_listed_read_and_deleted")),
        case("batch_not_found", batches_test("a_batch_is_its_keys_alone")),
        case("batch_not_cancellable", batches_test("a_batch_is_run_to_its_end")),
        of_conversations("duplicate_item", "what_cannot_be_kept_is_refused_and_nothing_of_it_is_kept"),
        of_conversations("item_not_found", "items_are_added_paged_and_taken_out"),
        of_conversations("conversation_too_long", "a_conversation_that_is_too_long_is_not_gone_on_with"),
        both("model_not_found", &json!({"model": "none"})),
    ]
}

fn files_test(name: &'static str) -> Play {
    Play::Test { file: include_str!("../files.rs"), name }
}

fn batches_test(name: &'static str) -> Play {
    Play::Test { file: include_str!("../batches.rs"), name }
}

fn of_conversations(code: &'static str, name: &'static str) -> Case {
    case(code, Play::Test { file: include_str!("../../../src/api/conversations/tests.rs"), name })
}

fn images() -> Vec<Case> {
    let image = |code, url: String| {
        let part = json!({"type": "input_image", "image_url": url});
        let responses = json!({"input": [{"type": "message", "role": "user", "content": [part]}]});
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        let chat = json!({"messages": [{"role": "user", "content": [part]}]});
        case(code, Play::Body { responses: Some(responses), chat: Some(chat) })
    };
    // The beginning of a PNG and nothing behind it.
    let damaged = format!("{PNG}iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAA");
    let mut download = image("failed_to_download_image", "https://127.0.0.1:9/x.png".into());
    download.configure = Some(|config| config.images.allow_private = true);
    let mut large = image("image_file_too_large", damaged.clone());
    large.configure = Some(|config| config.images.max_bytes = 8);
    vec![
        image("invalid_image_url", "ftp://x/y.png".into()),
        download,
        image("invalid_base64_image", format!("{PNG}!!!")),
        image("empty_image_file", PNG.into()),
        large,
        image("unsupported_image_media_type", "data:image/bmp;base64,Qk0AAAAA".into()),
        image("image_parse_error", damaged),
    ]
}

fn files() -> Vec<Case> {
    let body = |part: Value| json!({"input": [{"type": "message", "role": "user", "content": [part]}]});
    let inline = |code, data: &str| {
        let responses = body(json!({"type": "input_file", "filename": "f", "file_data": data}));
        let chat = json!({"type": "file", "file": {"filename": "f", "file_data": data}});
        let chat = json!({"messages": [{"role": "user", "content": [chat]}]});
        case(code, Play::Body { responses: Some(responses), chat: Some(chat) })
    };
    let address = |code, url: &str| {
        let responses = body(json!({"type": "input_file", "file_url": url}));
        case(code, Play::Body { responses: Some(responses), chat: None })
    };
    let mut download = address("failed_to_download_file", "https://127.0.0.1:9/x.txt");
    download.configure = Some(|config| config.files.allow_private = true);
    let mut large = inline("file_too_large", "data:text/plain;base64,aGVsbG8gdGhlcmU=");
    large.configure = Some(|config| config.files.max_bytes = 8);
    let pdf = |code, name| case(code, Play::Test { file: include_str!("../../real_codex/files.rs"), name });
    let reader = Play::Test {
        file: include_str!("../../../src/api/files/tests.rs"),
        name: "without_a_program_pdfs_are_our_failure",
    };
    vec![
        address("invalid_file_url", "ftp://x/y.txt"),
        download,
        inline("invalid_base64_file", "%%%%"),
        inline("empty_file", "data:text/plain;base64,"),
        large,
        inline("unsupported_file", "data:application/zip;base64,UEsDBAAA"),
        pdf("encrypted_file", "hostile_pdfs_are_refused_and_harm_nobody"),
        pdf("file_without_text", "hostile_pdfs_are_refused_and_harm_nobody"),
        pdf("file_parse_error", "hostile_pdfs_are_refused_and_harm_nobody"),
        case("file_reader_unavailable", reader),
    ]
}

fn audio() -> Vec<Case> {
    let audio = |code, data: &str| {
        let part = json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}});
        let responses = json!({"input": [{"type": "message", "role": "user", "content": [part]}]});
        let chat = json!({"messages": [{"role": "user", "content": [part]}]});
        case(code, Play::Body { responses: Some(responses), chat: Some(chat) })
    };
    let mut large = audio("audio_file_too_large", "UklGRiQAAABXQVZFZm10IA==");
    large.configure = Some(|config| config.audio.max_bytes = 8);
    vec![audio("invalid_base64_audio", "%%%%"), audio("invalid_audio", "aGVsbG8="), large]
}

/// What is refused before a handler has looked at it.
fn edges() -> Vec<Case> {
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n")
    };
    vec![
        case("invalid_http", Play::Raw("GET / HTTP/1.1\r\nno header\r\n\r\n".into())),
        case("uri_too_long", Play::Raw(get(&format!("/{}", "x".repeat(70_000)), ""))),
        case(
            "request_header_fields_too_large",
            Play::Raw(get("/v1/models", &format!("x: {}\r\n", "x".repeat(1_000_000)))),
        ),
        with("invalid_api_key", token, Play::Headers(vec![("authorization", "Bearer wrong")])),
        case("origin_not_allowed", Play::Headers(vec![("origin", "https://page.example")])),
        case("host_not_allowed", Play::Headers(vec![("host", "page.example")])),
        case("unknown_url", Play::Raw(get("/v1/nothing", ""))),
        case("endpoint_not_served", Play::Raw(get("/v1/embeddings", ""))),
        case("method_not_supported", Play::Raw(get("/v1/completions", ""))),
        case("upgrade_required", Play::Raw(get("/v1/responses", ""))),
        with(
            "request_timeout",
            |config| config.server.body_timeout = Duration::from_millis(100),
            Play::Raw("POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{".into()),
        ),
        with(
            "request_too_large",
            |config| config.server.max_body_bytes = 8,
            Play::Headers(Vec::new()),
        ),
        case("unsupported_media_type", Play::Raw(posted("text/plain", "{}"))),
        fields(
            "invalid_encrypted_content",
            Some(json!({"input": [{"type": "compaction", "encrypted_content": "cbc1.x"}]})),
            None,
        ),
    ]
}

/// What takes more than a request, and a test of its own.
fn elsewhere() -> Vec<Case> {
    vec![
        case(
            "previous_response_in_progress",
            Play::Test {
                file: include_str!("../background.rs"),
                name: "what_has_not_ended_is_not_continued",
            },
        ),
        case(
            "conversation_locked",
            Play::Test {
                file: include_str!("../conversations.rs"),
                name: "a_background_response_has_its_conversation_for_itself_until_it_ends",
            },
        ),
        case(
            "compaction_lost",
            Play::Test { file: include_str!("../compact.rs"), name: "what_goes_wrong_has_its_name" },
        ),
        case(
            "invalid_stream_id",
            Play::Test {
                file: include_str!("../socket.rs"),
                name: "mistakes_are_told_and_the_socket_goes_on",
            },
        ),
        case(
            "websocket_stream_limit_reached",
            Play::Test { file: include_str!("../socket.rs"), name: "lanes_are_bounded" },
        ),
        case(
            "websocket_connection_limit_reached",
            Play::Test {
                file: include_str!("../socket.rs"),
                name: "an_old_socket_ends_what_runs_and_takes_nothing_new",
            },
        ),
        case(
            "stream_expired",
            Play::Test { file: include_str!("../background.rs"), name: "events_are_kept_for_a_while" },
        ),
        case(
            "bridge_restarted",
            Play::Test {
                file: include_str!("../../../src/api/responses/background/tests.rs"),
                name: "what_was_seen_or_begun_too_often_has_failed",
            },
        ),
        case(
            "store_full",
            Play::Test { file: include_str!("../background.rs"), name: "a_full_store_takes_none" },
        ),
        case(
            "too_many_failed_keys",
            Play::Test {
                file: include_str!("../../../src/api/auth_backoff.rs"),
                name: "only_so_many_wrong_tokens_wait_at_once",
            },
        ),
        case(
            "too_many_connections",
            Play::Test {
                file: include_str!("../../../src/api/server/tests.rs"),
                name: "a_full_house_is_a_503_and_our_health_is_told_all_the_same",
            },
        ),
        case(
            "internal_error",
            Play::Test {
                file: include_str!("../../../src/api/router/tests.rs"),
                name: "a_panic_is_a_500_that_says_nothing",
            },
        ),
        case(
            "app_server_unavailable",
            Play::Test {
                file: include_str!("../../../src/api/router/tests.rs"),
                name: "the_engines_refusal_reaches_the_client",
            },
        ),
        case(
            "shutting_down",
            Play::Test {
                file: include_str!("../../../src/api/router/tests.rs"),
                name: "the_engines_refusal_reaches_the_client",
            },
        ),
    ]
}

fn turns() -> Vec<Case> {
    let failed = |code, play| case(code, Play::Turn(play));
    vec![
        failed("", |_, turn| {
            turn.failed(&json!("badRequest"), "No.");
        }),
        failed("content_policy_violation", |_, turn| {
            turn.failed(&json!("cyberPolicy"), "No.");
        }),
        failed("context_length_exceeded", |_, turn| {
            turn.failed(&json!("contextWindowExceeded"), "No.");
        }),
        failed("login_required", |_, turn| {
            turn.failed(&json!({"httpConnectionFailed": {"httpStatusCode": 401}}), "No.");
        }),
        failed("rate_limit_exceeded", |_, turn| {
            turn.failed(&json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}), "No.");
        }),
        failed("usage_limit_reached", |_, turn| {
            turn.failed(&json!("usageLimitExceeded"), "No.");
        }),
        failed("model_not_found", |_, turn| {
            turn.failed(&json!("modelNotFound"), "No.");
        }),
        failed("upstream_error", |_, turn| {
            turn.failed(&json!("internalServerError"), "No.");
        }),
        failed("upstream_refused", |_, turn| {
            turn.failed(&json!("other"), "No.");
        }),
        failed("stream_disconnected", |_, turn| {
            turn.failed(&json!({"responseStreamDisconnected": {"httpStatusCode": null}}), "No.");
        }),
        failed("server_overloaded", |_, turn| {
            turn.failed(&json!("serverOverloaded"), "No.");
        }),
        failed("interrupted", |_, turn| {
            turn.interrupted();
        }),
        failed("context_compacted", |_, turn| {
            turn.item_started("contextCompaction", "c");
        }),
        failed("lost_turn", |daemon, _| daemon.peer.status("idle")),
        case("app_server_connection_lost", Play::Lost),
        with(
            "answer_too_large",
            |config| config.turn.max_output_bytes = 64,
            Play::Turn(|_, turn| {
                turn.delta("m", &"x".repeat(65));
            }),
        ),
        with(
            "timeout",
            |config| config.turn.idle_timeout = Duration::from_millis(100),
            Play::Turn(|_, _| {}),
        ),
    ]
}

/// Starts that are refused, answers that do not do, and what only a test of its own can play.
fn answers() -> Vec<Case> {
    let function = json!({"name": "f", "parameters": {"type": "object", "properties": {}}});
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}});
    vec![
        case("upstream_error", Play::Refused { method: "turn/start", code: -32603 }),
        case("app_server_unreadable", Play::Refused { method: "turn/start", code: -32601 }),
        case("", Play::Refused { method: "turn/start", code: -32602 }),
        case(
            "tool_choice_not_honoured",
            Play::Answered {
                responses: json!({"input": "hi", "tools": [tool], "tool_choice": "required"}),
                chat: json!({
                    "messages": [{"role": "user", "content": "hi"}],
                    "tools": [{"type": "function", "function": function}], "tool_choice": "required",
                }),
                text: "no call",
            },
        ),
        case(
            "answer_not_passed_on",
            Play::Test {
                file: include_str!("../../real_codex/failures/table.rs"),
                name: "each_row_on_the_plain_face",
            },
        ),
        case(
            "invalid_tool_input",
            Play::Test {
                file: include_str!("../../real_codex/tool_types.rs"),
                name: "what_a_grammar_or_a_strict_schema_does_not_allow_is_no_call",
            },
        ),
        case(
            "invalid_structured_output",
            Play::Answered {
                responses: json!({"input": "say json", "text": {"format": {"type": "json_object"}}}),
                chat: json!({
                    "messages": [{"role": "user", "content": "say json"}],
                    "response_format": {"type": "json_object"},
                }),
                text: "no JSON",
            },
        ),
        case(
            "retry_diverged",
            Play::Test {
                file: include_str!("../retries.rs"),
                name: "a_retry_that_says_something_else_is_a_named_failure",
            },
        ),
        case(
            "upstream_unavailable",
            Play::Test {
                file: include_str!("../upstream.rs"),
                name: "an_open_breaker_refuses_until_a_probe_is_answered",
            },
        ),
        case(
            "events_overrun",
            Play::Test {
                file: include_str!("../errors.rs"),
                name: "an_answer_that_comes_too_fast_is_a_named_failure",
            },
        ),
    ]
}

/// A body of this type.
fn posted(kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn token(config: &mut Config) {
    let token = SecretString::from("right");
    config.auth.tokens.push(codex_bridge::config::NamedToken { name: "test".into(), token });
}
