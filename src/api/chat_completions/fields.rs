//! Every field of a request to `/v1/chat/completions` and what becomes of it.

use crate::api::fields::{Check, Field, Neutral, RETENTIONS};

/// In the order of the official reference; a nested field after the one that holds it.
pub(crate) const FIELDS: &[Field] = &[
    Field::honoured("messages")
        .note("text, images, files' text, audio where the model takes it, tool calls and outputs"),
    Field::ignored("messages[].name", Check::Text, Neutral::None),
    Field::ignored("messages[].content[].image_url.detail", Check::Text, Neutral::Words(&["auto"]))
        .note("the app-server asks for `original` or for nothing, as the model has it"),
    Field::ignored("messages[].content[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::honoured("model"),
    Field::honoured("stream"),
    Field::honoured("stream_options"),
    Field::honoured("stream_options.include_usage"),
    // Nothing is ever padded: only asking for it has no effect.
    Field::ignored("stream_options.include_obfuscation", Check::Flag, Neutral::Flag(false)),
    Field::emulated("n").note("as many turns; the prompt is counted once"),
    Field::honoured("reasoning_effort").note("one of the model's own; others are a 400 that names them"),
    Field::honoured("reasoning")
        .note("not official: `effort`, `summary`; a summary comes as `reasoning_content`"),
    Field::honoured("verbosity"),
    Field::honoured("service_tier")
        .note("`scale` is ignored; the answer has the tier that was sent: the one used is not told"),
    Field::honoured("response_format"),
    Field::honoured("response_format.type")
        .note("`json_object` is emulated: an instruction, the answer checked, one repair"),
    Field::honoured("response_format.json_schema"),
    Field::honoured("response_format.json_schema.name"),
    Field::honoured("response_format.json_schema.schema"),
    Field::honoured("response_format.json_schema.description")
        .note("reaches the model without `strict` only"),
    Field::honoured("response_format.json_schema.strict").note(
        "`true`: a schema that strict mode refuses is a 400; `false`: emulated as `json_object`; absent, it is \
         `false` officially: the backend holds the answer to a schema that strict mode takes, others are emulated",
    ),
    Field::honoured("store").note("`true` keeps the completion and its messages for `store.document_ttl`"),
    Field::honoured("metadata").note("kept with a stored completion, and passed on within 4 KiB"),
    Field::honoured("modalities").note("`text`"),
    Field::emulated("max_completion_tokens").note("counts the answer's text; past it the answer is cut"),
    Field::emulated("max_tokens").note("the older name"),
    Field::emulated("stop").note("up to four; never part of the answer"),
    Field::honoured("tools").note("functions and custom tools; others are a 400 `unsupported_tool`"),
    Field::emulated("tool_choice"),
    Field::emulated("parallel_tool_calls")
        .note("upstream it is the model's own; `false` keeps the first call"),
    Field::honoured("functions").note("deprecated; answered by `function_call`"),
    Field::emulated("function_call").note("deprecated"),
    Field::honoured("web_search_options").note("turns web search on, where it can be had"),
    Field::honoured("web_search_options.user_location"),
    Field::honoured("web_search_options.user_location.type"),
    Field::honoured("web_search_options.user_location.approximate"),
    Field::honoured("web_search_options.user_location.approximate.country"),
    Field::honoured("web_search_options.user_location.approximate.region"),
    Field::honoured("web_search_options.user_location.approximate.city"),
    Field::honoured("web_search_options.user_location.approximate.timezone"),
    Field::honoured("web_search_options.search_context_size"),
    Field::ignored("temperature", Check::Number(0.0, 2.0), Neutral::Number(1.0)),
    Field::ignored("top_p", Check::Number(0.0, 1.0), Neutral::Number(1.0)),
    Field::ignored("presence_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("frequency_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("logit_bias", Check::Integers(-100, 100), Neutral::Empty),
    Field::ignored("seed", Check::Integer(i64::MIN, i64::MAX), Neutral::None),
    Field::ignored("prediction", Check::Content("content"), Neutral::None),
    Field::emulated("prompt_cache_key").note("names the session where nothing before it does; upstream it is the thread's own, and calls with different ones share none"),
    Field::ignored("prompt_cache_retention", Check::Word(RETENTIONS), Neutral::None),
    Field::ignored("prompt_cache_options", Check::Object, Neutral::Empty),
    Field::ignored("safety_identifier", Check::TextUpTo(64), Neutral::None),
    Field::ignored("user", Check::Text, Neutral::None),
    Field::refused("logprobs", Check::Flag, Neutral::Flag(false)),
    Field::refused("top_logprobs", Check::Integer(0, 20), Neutral::Number(0.0)),
    Field::refused("audio", Check::Object, Neutral::None),
    Field::refused("moderation", Check::Object, Neutral::None),
];
