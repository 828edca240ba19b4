//! Every field of a request to `/v1/responses` and what becomes of it.

use crate::api::fields::{Check, Field, Neutral, RETENTIONS};

/// In the order of the official reference; a nested field after the one that holds it.
pub(crate) const FIELDS: &[Field] = &[
    Field::honoured("input")
        .note("text, images, files' text, audio where the model takes it, every output item sent back"),
    Field::ignored("input[].content[].detail", Check::Text, AUTO)
        .note("the app-server asks for `original` or for nothing, as the model has it; files are their text"),
    Field::ignored("input[].content[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::ignored("input[].output[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::honoured("model"),
    Field::honoured("instructions"),
    Field::honoured("previous_response_id"),
    Field::honoured("conversation").note("its items go before the input; the input and the answer go to its end"),
    Field::honoured("conversation.id"),
    Field::honoured("stream"),
    Field::honoured("stream_options"),
    // Nothing is ever padded: only asking for it has no effect.
    Field::ignored("stream_options.include_obfuscation", Check::Flag, Neutral::Flag(false)),
    Field::honoured("store")
        .note("with `false`, `previous_response_id` finds it in memory alone (`continuation.keep_unstored`)"),
    Field::honoured("background").note("wants `store`; outlives the client and the bridge"),
    Field::honoured("metadata").note("repeated, and passed on within 4 KiB"),
    Field::honoured("include").note("log probabilities are refused; `bridge.trace` is ours"),
    Field::honoured("reasoning"),
    Field::honoured("reasoning.effort").note("one of the model's own; others are a 400 that names them"),
    Field::honoured("reasoning.summary"),
    Field::honoured("reasoning.generate_summary"),
    Field::ignored("reasoning.context", Check::Word(&["auto", "current_turn", "all_turns"]), AUTO),
    Field::ignored("reasoning.mode", Check::Text, Neutral::Words(&["standard"])),
    Field::honoured("text"),
    Field::honoured("text.format"),
    Field::honoured("text.format.type")
        .note("`json_object` is emulated: an instruction, the answer checked, one repair"),
    Field::honoured("text.format.name"),
    Field::honoured("text.format.schema"),
    Field::honoured("text.format.description").note("repeated; reaches the model without `strict` only"),
    Field::honoured("text.format.strict").note(
        "`true`: a schema that strict mode refuses is a 400; `false`: emulated as `json_object`; absent, it is \
         `false` officially: the backend holds the answer to a schema that strict mode takes, others are emulated",
    ),
    Field::honoured("text.verbosity"),
    Field::honoured("service_tier")
        .note("`scale` and `ultrafast` are ignored; the answer has the tier that was sent: the one used is not told"),
    Field::emulated("max_output_tokens")
        .note("counts the answer's text; past it the answer is cut and `incomplete`"),
    Field::honoured("tools")
        .note("functions, custom tools and namespaces; web search and image generation where they can be had; others are a 400 `unsupported_tool`"),
    Field::emulated("tool_choice"),
    Field::emulated("parallel_tool_calls")
        .note("upstream it is the model's own; `false` keeps the first call"),
    Field::ignored("temperature", Check::Number(0.0, 2.0), Neutral::Number(1.0)),
    Field::ignored("top_p", Check::Number(0.0, 1.0), Neutral::Number(1.0)),
    Field::ignored("max_tool_calls", Check::Integer(0, i64::MAX), Neutral::None),
    Field::ignored("truncation", Check::Word(&["auto", "disabled"]), Neutral::Words(&["disabled"])),
    Field::emulated("prompt_cache_key").note("names the session where nothing before it does; upstream it is the thread's own, and calls with different ones share none; repeated"),
    Field::ignored("prompt_cache_retention", Check::Word(RETENTIONS), Neutral::None),
    Field::ignored("prompt_cache_options", Check::Object, Neutral::Empty),
    Field::ignored("safety_identifier", Check::TextUpTo(64), Neutral::None).note("repeated"),
    Field::ignored("user", Check::Text, Neutral::None).note("repeated"),
    Field::refused("context_management", Check::Array, Neutral::Empty),
    Field::refused("prompt", Check::Object, Neutral::None),
    Field::refused("moderation", Check::Object, Neutral::None),
    Field::refused("top_logprobs", Check::Integer(0, 20), Neutral::Number(0.0)),
];

const AUTO: Neutral = Neutral::Words(&["auto"]);
