//! Every field of a request to `/v1/chat/completions` and what becomes of it.

use super::decode::{MAX_CHOICES, TIERS};
use crate::api::fields::{Check, Field, Neutral, RETENTIONS};
use crate::api::format::FORMATS;

/// In the order of the official reference; a nested field after the one that holds it.
pub(crate) const FIELDS: &[Field] = &[
    Field::honoured("messages").is(Check::List(&Check::Object)).required()
        .note("text, images, files' text, audio where the model takes it, tool calls and outputs"),
    Field::ignored("messages[].name", Check::Text, Neutral::None),
    Field::ignored("messages[].content[].image_url.detail", Check::Text, Neutral::Words(&["auto"]))
        .note("the app-server asks for `original` or for nothing, as the model has it"),
    Field::ignored("messages[].content[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::honoured("model").is(Check::Text),
    Field::honoured("stream").is(Check::Flag),
    Field::honoured("stream_options").is(Check::Object),
    Field::honoured("stream_options.include_usage").is(Check::Flag),
    // Nothing is ever padded: only asking for it has no effect.
    Field::ignored("stream_options.include_obfuscation", Check::Flag, Neutral::Flag(false)),
    Field::emulated("n").is(Check::Integer(1, MAX_CHOICES)).note("as many turns; the prompt is counted once"),
    Field::honoured("reasoning_effort").is(Check::Text).note("one of the model's own; others are a 400 that names them"),
    Field::honoured("reasoning").is(Check::Object)
        .note("not official: `effort`, `summary`; a summary comes as `reasoning_content`"),
    Field::honoured("verbosity").is(Check::Word(&["low", "medium", "high"])),
    Field::honoured("service_tier").is(Check::Word(TIERS))
        .note("`scale` is ignored; the answer has the tier that was sent: the one used is not told"),
    Field::honoured("response_format").is(Check::Object),
    Field::honoured("response_format.type").is(Check::Word(FORMATS))
        .note("`json_object` is emulated: an instruction, the answer checked, one repair"),
    Field::honoured("response_format.json_schema").is(Check::Object),
    Field::honoured("response_format.json_schema.name").is(Check::Text),
    Field::honoured("response_format.json_schema.schema").is(Check::Object),
    Field::honoured("response_format.json_schema.description").is(Check::Text)
        .note("reaches the model without `strict` only"),
    Field::honoured("response_format.json_schema.strict").is(Check::Flag).note(
        "`true`: a schema that strict mode refuses is a 400; `false`: emulated as `json_object`; absent, it is \
         `false` officially: the backend holds the answer to a schema that strict mode takes, others are emulated",
    ),
    Field::honoured("store").is(Check::Flag)
        .note("`true` keeps the completion and its messages for `store.document_ttl`"),
    Field::honoured("metadata").is(Check::Metadata)
        .note("kept with a stored completion, and passed on within 4 KiB"),
    Field::honoured("modalities").is(Check::List(&Check::Word(&["text"]))).note("`text`"),
    Field::emulated("max_completion_tokens").is(Check::Integer(1, i64::MAX)).note("counts the answer's text; past it the answer is cut"),
    Field::emulated("max_tokens").is(Check::Integer(1, i64::MAX)).note("the older name"),
    Field::emulated("stop").is(Check::TextOr(&Check::List(&Check::Text))).note("up to four; never part of the answer"),
    Field::honoured("tools").is(Check::List(&Check::Object)).note("functions and custom tools; others are a 400 `unsupported_tool`"),
    Field::emulated("tool_choice").is(Check::TextOr(&Check::Object)),
    Field::emulated("parallel_tool_calls").is(Check::Flag)
        .note("upstream it is the model's own; `false` keeps the first call"),
    Field::honoured("functions").is(Check::List(&Check::Object)).note("deprecated; answered by `function_call`"),
    Field::emulated("function_call").is(Check::TextOr(&Check::Object)).note("deprecated"),
    Field::honoured("web_search_options").is(Check::Object).note("turns web search on, where it can be had"),
    Field::honoured("web_search_options.user_location").is(Check::Object),
    Field::honoured("web_search_options.user_location.type").is(Check::Word(&["approximate"])),
    Field::honoured("web_search_options.user_location.approximate").is(Check::Object),
    Field::honoured("web_search_options.user_location.approximate.country").is(Check::Text),
    Field::honoured("web_search_options.user_location.approximate.region").is(Check::Text),
    Field::honoured("web_search_options.user_location.approximate.city").is(Check::Text),
    Field::honoured("web_search_options.user_location.approximate.timezone").is(Check::Text),
    Field::honoured("web_search_options.search_context_size").is(Check::Word(&["low", "medium", "high"])),
    Field::ignored("temperature", Check::Number(0.0, 2.0), Neutral::Number(1.0)),
    Field::ignored("top_p", Check::Number(0.0, 1.0), Neutral::Number(1.0)),
    Field::ignored("presence_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("frequency_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("logit_bias", Check::Integers(-100, 100), Neutral::Empty),
    Field::ignored("seed", Check::Integer(i64::MIN, i64::MAX), Neutral::None),
    Field::ignored("prediction", Check::Content("content"), Neutral::None),
    Field::emulated("prompt_cache_key").is(Check::Text).note("names the session where nothing before it does; upstream it is the thread's own, and calls with different ones share none"),
    Field::ignored("prompt_cache_retention", Check::Word(RETENTIONS), Neutral::None),
    Field::ignored("prompt_cache_options", Check::Object, Neutral::Empty),
    Field::ignored("safety_identifier", Check::TextUpTo(64), Neutral::None),
    Field::ignored("user", Check::Text, Neutral::None),
    Field::refused("logprobs", Check::Flag, Neutral::Flag(false)),
    Field::refused("top_logprobs", Check::Integer(0, 20), Neutral::Number(0.0)),
    Field::refused("audio", Check::Object, Neutral::None),
    Field::refused("moderation", Check::Object, Neutral::None),
];
