//! Every field of a request to `/v1/responses` and what becomes of it.

use super::decode::{INCLUDES, LEAST_TOKENS, SUMMARIES, TIERS, VERBOSITIES};
use crate::api::fields::{Check, Field, Neutral, RETENTIONS};
use crate::api::format::FORMATS;

/// In the order of the official reference; a nested field after the one that holds it.
pub(crate) const FIELDS: &[Field] = &[
    Field::honoured("input").is(Check::TextOr(&Check::List(&Check::Object)))
        .note("text, images, files' text, audio where the model takes it, every output item sent back"),
    Field::ignored("input[].content[].detail", Check::Text, AUTO)
        .note("the app-server asks for `original` or for nothing, as the model has it; files are their text"),
    Field::ignored("input[].content[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::ignored("input[].output[].prompt_cache_breakpoint", Check::Object, Neutral::None),
    Field::honoured("model").is(Check::Text),
    Field::honoured("instructions").is(Check::Text),
    Field::honoured("previous_response_id").is(Check::Text),
    Field::honoured("conversation").is(Check::TextOr(&Check::Object))
        .note("its items go before the input; the input and the answer go to its end"),
    Field::honoured("conversation.id").is(Check::Text),
    Field::honoured("stream").is(Check::Flag),
    Field::honoured("stream_options").is(Check::Object),
    // Nothing is ever padded: only asking for it has no effect.
    Field::ignored("stream_options.include_obfuscation", Check::Flag, Neutral::Flag(false)),
    Field::honoured("store").is(Check::Flag)
        .note("with `false`, `previous_response_id` finds it in memory alone (`continuation.keep_unstored`)"),
    Field::honoured("background").is(Check::Flag).note("wants `store`; outlives the client and the bridge"),
    Field::honoured("metadata").is(Check::Metadata).note("repeated, and passed on within 4 KiB"),
    Field::honoured("include").is(Check::List(&Check::Word(INCLUDES))).note("log probabilities are refused; `bridge.trace` is ours"),
    Field::honoured("reasoning").is(Check::Object),
    Field::honoured("reasoning.effort").is(Check::Text).note("one of the model's own; others are a 400 that names them"),
    Field::honoured("reasoning.summary").is(Check::Word(SUMMARIES)),
    Field::honoured("reasoning.generate_summary").is(Check::Word(SUMMARIES)),
    Field::ignored("reasoning.context", Check::Word(&["auto", "current_turn", "all_turns"]), AUTO),
    Field::ignored("reasoning.mode", Check::Text, Neutral::Words(&["standard"])),
    Field::honoured("text").is(Check::Object),
    Field::honoured("text.format").is(Check::Object),
    Field::honoured("text.format.type").is(Check::Word(FORMATS))
        .note("`json_object` is emulated: an instruction, the answer checked, one repair"),
    Field::honoured("text.format.name").is(Check::Text),
    Field::honoured("text.format.schema").is(Check::Object),
    Field::honoured("text.format.description").is(Check::Text).note("repeated; reaches the model without `strict` only"),
    Field::honoured("text.format.strict").is(Check::Flag).note(
        "`true`: a schema that strict mode refuses is a 400; `false`: emulated as `json_object`; absent, it is \
         `false` officially: the backend holds the answer to a schema that strict mode takes, others are emulated",
    ),
    Field::honoured("text.verbosity").is(Check::Word(VERBOSITIES)),
    Field::honoured("service_tier").is(Check::Word(TIERS))
        .note("`scale` and `ultrafast` are ignored; the answer has the tier that was sent: the one used is not told"),
    Field::emulated("max_output_tokens").is(Check::Integer(LEAST_TOKENS, i64::MAX))
        .note("counts the answer's text; past it the answer is cut and `incomplete`"),
    Field::honoured("tools").is(Check::List(&Check::Object))
        .note("functions, custom tools and namespaces; web search and image generation where they can be had; others are a 400 `unsupported_tool`"),
    Field::emulated("tool_choice").is(Check::TextOr(&Check::Object)),
    Field::emulated("parallel_tool_calls").is(Check::Flag)
        .note("upstream it is the model's own; `false` keeps the first call"),
    Field::ignored("temperature", Check::Number(0.0, 2.0), Neutral::Number(1.0)),
    Field::ignored("top_p", Check::Number(0.0, 1.0), Neutral::Number(1.0)),
    Field::ignored("max_tool_calls", Check::Integer(0, i64::MAX), Neutral::None),
    Field::ignored("truncation", Check::Word(&["auto", "disabled"]), Neutral::Words(&["disabled"])),
    Field::emulated("prompt_cache_key").is(Check::Text).note("names the session where nothing before it does; upstream it is the thread's own, and calls with different ones share none; repeated"),
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
