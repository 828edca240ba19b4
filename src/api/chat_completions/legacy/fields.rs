//! Every field of a request to `/v1/completions` and what becomes of it.

use crate::api::chat_completions::decode::MAX_CHOICES;
use crate::api::fields::{Check, Field, Neutral};

/// In the order of the official reference; a nested field after the one that holds it.
pub(crate) const FIELDS: &[Field] = &[
    Field::honoured("model").is(Check::Text),
    Field::emulated("prompt")
        .is(Check::TextOr(&Check::List(&Check::Text)))
        .required()
        .note("a text, or several: each is one user message, and nothing is added; tokens are a 400"),
    Field::emulated("max_tokens")
        .is(Check::Integer(1, i64::MAX))
        .note("counts the answer's text; past it the answer is cut; 16 where absent, as officially"),
    Field::emulated("n")
        .is(Check::Integer(1, MAX_CHOICES))
        .note("as many turns for each prompt; 128 choices in all at most"),
    Field::emulated("stop")
        .is(Check::TextOr(&Check::List(&Check::Text)))
        .note("up to four; never part of the answer"),
    Field::emulated("echo").is(Check::Flag).note("the prompt goes before the answer"),
    Field::honoured("stream").is(Check::Flag),
    Field::honoured("stream_options").is(Check::Object),
    Field::honoured("stream_options.include_usage").is(Check::Flag),
    // Nothing is ever padded: only asking for it has no effect.
    Field::ignored("stream_options.include_obfuscation", Check::Flag, Neutral::Flag(false)),
    Field::ignored("temperature", Check::Number(0.0, 2.0), Neutral::Number(1.0)),
    Field::ignored("top_p", Check::Number(0.0, 1.0), Neutral::Number(1.0)),
    Field::ignored("presence_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("frequency_penalty", Check::Number(-2.0, 2.0), Neutral::Number(0.0)),
    Field::ignored("logit_bias", Check::Integers(-100, 100), Neutral::Empty),
    Field::ignored("seed", Check::Integer(i64::MIN, i64::MAX), Neutral::None),
    Field::ignored("user", Check::Text, Neutral::None),
    Field::refused("suffix", Check::Text, Neutral::Words(&[""]))
        .note("the models write on, and not between two texts"),
    Field::refused("best_of", Check::Integer(0, 20), Neutral::Number(1.0))
        .note("nothing tells which of several answers is the best"),
    Field::refused("logprobs", Check::Integer(0, 5), Neutral::None),
];
