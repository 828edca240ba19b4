//! The capital words in a user text that steer the answer.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::answer::{Body, Call, Failure, Planned};

/// Most words of a `SLOW` answer: about 8 MB of text.
const MAX_SLOW_WORDS: u64 = 1_000_000;
/// Longest pause of a `SLOW` answer between two words.
const MAX_PAUSE_MS: u64 = 600_000;

/// `THINK "<json string>"`: the reasoning summary.
pub(crate) fn thought(text: &str) -> Option<String> {
    after(text, "THINK").find_map(|rest| serde_json::from_str(json_prefix(rest)?.0).ok())
}

/// `FAIL [once] <status> [retry-after]`, or one of the named failures.
pub(crate) fn failure(text: &str) -> Option<Planned> {
    after(text, "FAIL").find_map(|rest| {
        let mut words =
            rest.split_whitespace().map(|word| word.trim_end_matches(['.', ',', ';', '!'])).peekable();
        let once = words.next_if_eq(&"once").is_some();
        let failure = match words.next()? {
            "stream" => Failure::Cut,
            "stall" => Failure::Stall,
            "usage" => Failure::UsageLimit,
            "context" => Failure::ContextWindow,
            "incomplete" => Failure::Incomplete,
            word => {
                let status = word.parse().ok().filter(|status| (400..600).contains(status))?;
                Failure::Status { status, retry_after: words.next().and_then(|word| word.parse().ok()) }
            }
        };
        Some(Planned { failure, once })
    })
}

/// `CALLTOOL <name> <json args>`, once or more; arguments left out are `{}`.
pub(crate) fn calls(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = text;
    while let Some(found) = after(rest, "CALLTOOL").next() {
        let found = found.trim_start();
        let end = found.find(char::is_whitespace).unwrap_or(found.len());
        let (name, tail) = found.split_at(end);
        let (arguments, tail) =
            json_prefix(tail).filter(|(json, _)| json.starts_with('{')).unwrap_or(("{}", tail));
        if !name.is_empty() {
            calls.push(Call { name: name.to_owned(), arguments: arguments.to_owned() });
        }
        rest = tail;
    }
    (!calls.is_empty()).then_some(calls)
}

/// `JSON <json>`, `SAY <text to the end>` and `SLOW <n> <ms>`.
pub(crate) fn dictated(text: &str) -> Option<Body> {
    let json = after(text, "JSON").find_map(json_prefix).map(|(json, _)| Body::text(json));
    json.or_else(|| {
        let rest = after(text, "SAY").next()?;
        Some(Body::text(rest.strip_prefix(char::is_whitespace).unwrap_or(rest)))
    })
    .or_else(|| after(text, "SLOW").find_map(slow))
}

fn slow(rest: &str) -> Option<Body> {
    let mut numbers = rest.split_whitespace().map_while(|word| word.parse::<u64>().ok());
    let (count, pause) = (numbers.next()?.min(MAX_SLOW_WORDS), numbers.next()?.min(MAX_PAUSE_MS));
    let words: Vec<String> = (0..count).map(|index| format!("w{index}")).collect();
    Some(Body::Text { text: words.join(" "), pause: Duration::from_millis(pause) })
}

/// What follows each occurrence of `word` that stands alone, its first space included.
fn after<'t>(text: &'t str, word: &'static str) -> impl Iterator<Item = &'t str> {
    text.match_indices(word).filter_map(move |(start, _)| {
        let (before, rest) = (&text[..start], &text[start + word.len()..]);
        let alone = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && (rest.is_empty() || rest.starts_with(char::is_whitespace));
        alone.then_some(rest)
    })
}

/// The JSON value that `text` starts with, as written, and what follows it.
fn json_prefix(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(text.split_at(values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: Option<Body>) -> Option<String> {
        match body {
            Some(Body::Text { text, .. }) => Some(text),
            _ => None,
        }
    }

    #[test]
    fn a_thought_is_a_json_string() {
        assert_eq!(
            thought(r#"please THINK "step \"one\"\nthen two" SAY x"#).as_deref(),
            Some("step \"one\"\nthen two")
        );
        for none in ["THINK hard", "RETHINK \"x\"", "think \"x\"", "THINK"] {
            assert_eq!(thought(none), None, "{none}");
        }
    }

    #[test]
    fn failures_are_named_or_a_status() {
        let planned = |failure, once| Some(Planned { failure, once });
        let status = |status, retry_after| Failure::Status { status, retry_after };
        assert_eq!(failure("FAIL 429 7"), planned(status(429, Some(7)), false));
        assert_eq!(failure("please FAIL 500, thanks"), planned(status(500, None), false));
        assert_eq!(failure("FAIL once 503 SAY hello"), planned(status(503, None), true));
        assert_eq!(failure("FAIL stream"), planned(Failure::Cut, false));
        assert_eq!(failure("FAIL once stall."), planned(Failure::Stall, true));
        assert_eq!(failure("FAIL usage"), planned(Failure::UsageLimit, false));
        assert_eq!(failure("FAIL context"), planned(Failure::ContextWindow, false));
        assert_eq!(failure("FAIL incomplete"), planned(Failure::Incomplete, false));
        for none in ["FAIL", "FAIL 200", "FAIL whale", "FAILED 500", "fail 500"] {
            assert_eq!(failure(none), None, "{none}");
        }
    }

    #[test]
    fn calls_keep_their_arguments_as_written() {
        let call = |name: &str, arguments: &str| Call { name: name.into(), arguments: arguments.into() };
        assert_eq!(
            calls(
                r#"CALLTOOL add {"a": 1,  "b": 2} then CALLTOOL get-time CALLTOOL say {"t": "CALLTOOL no {}"}"#
            ),
            Some(vec![
                call("add", r#"{"a": 1,  "b": 2}"#),
                call("get-time", "{}"),
                call("say", r#"{"t": "CALLTOOL no {}"}"#)
            ]),
        );
        assert_eq!(calls("no CALLTOOL"), None);
    }

    #[test]
    fn dictated_text_is_exact() {
        assert_eq!(text(dictated(r#"give JSON {"a": [1,  2]} now"#)).as_deref(), Some(r#"{"a": [1,  2]}"#));
        assert_eq!(
            text(dictated("x SAY  two  spaces\nand a line ")).as_deref(),
            Some(" two  spaces\nand a line ")
        );
        assert_eq!(text(dictated("answer in JSON please")), None);
        let slow = Body::Text { text: "w0 w1 w2".into(), pause: Duration::from_millis(40) };
        assert_eq!(dictated("SLOW 3 40"), Some(slow));
        assert_eq!(dictated("SLOW down"), None);
    }
}
