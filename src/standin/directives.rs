//! The capital words in a user text that steer the answer.

use std::iter::Peekable;
use std::time::Duration;

use serde::de::IgnoredAny;

use super::account::Filled;
use super::answer::{Body, Call, Failure, Planned};

/// Most words of a `SLOW` answer: about 8 MB of text.
const MAX_SLOW_WORDS: u64 = 1_000_000;
/// Longest pause between two words.
const MAX_PAUSE_MS: u64 = 600_000;

/// `THINK "<json string>"`: the reasoning summary.
pub(crate) fn thought(text: &str) -> Option<String> {
    after(text, "THINK").find_map(|rest| serde_json::from_str(json_prefix(rest)?.0).ok())
}

/// `WINDOW <percent> <seconds>`: how full the account's short window is from this answer on, and until when.
pub(crate) fn window(text: &str) -> Option<Filled> {
    after(text, "WINDOW").find_map(|rest| {
        let mut numbers = rest.split_whitespace().map_while(|word| word.parse().ok());
        Some(Filled { used_percent: numbers.next()?, resets_in: numbers.next()? })
    })
}

/// Codes that an answer can be told to fail with: those that Codex tells apart, and some that it does not.
const CODES: &[&str] = &[
    "bio_policy",
    "content_policy_violation",
    "context_length_exceeded",
    "cyber_policy",
    "flex_unavailable",
    "inference_hook_denied",
    "insufficient_quota",
    "invalid_prompt",
    "misalignment_policy_violation",
    "model_not_found",
    "policy_capacity_unavailable",
    "rate_limit_exceeded",
    "server_error",
    "server_is_overloaded",
    "slow_down",
    "usage_not_included",
];

/// `FAIL [once] <status> [retry-after] [code]`, `FAIL [once] [late] <code> [retry-after]`, or one of the named
/// failures.
pub(crate) fn failure(text: &str) -> Option<Planned> {
    after(text, "FAIL").find_map(|rest| {
        let mut words =
            rest.split_whitespace().map(|word| word.trim_end_matches(['.', ',', ';', '!'])).peekable();
        let once = words.next_if_eq(&"once").is_some();
        let failure = match words.next()? {
            "stream" => Failure::Cut,
            "stall" => Failure::Stall,
            "usage" => Failure::UsageLimit,
            "quote" => Failure::Quote,
            "context" => Failure::Failed { code: "context_length_exceeded", retry_after: None, late: false },
            "incomplete" => Failure::Incomplete("max_output_tokens"),
            "filter" => Failure::Incomplete("content_filter"),
            "late" => {
                let code = known(words.next()?)?;
                Failure::Failed { code, retry_after: seconds(&mut words), late: true }
            }
            word => {
                if let Some(code) = known(word) {
                    Failure::Failed { code, retry_after: seconds(&mut words), late: false }
                } else {
                    let status = word.parse().ok().filter(|status| (400..600).contains(status))?;
                    let retry_after = seconds(&mut words);
                    Failure::Status { status, retry_after, code: words.next().and_then(known) }
                }
            }
        };
        Some(Planned { failure, once })
    })
}

fn known(word: &str) -> Option<&'static str> {
    CODES.iter().find(|code| **code == word).copied()
}

/// The number that comes next, if one does.
fn seconds<'t>(words: &mut Peekable<impl Iterator<Item = &'t str>>) -> Option<u64> {
    let seconds = words.peek()?.parse().ok()?;
    words.next();
    Some(seconds)
}

/// `CALLTOOL <name> <json args>`, once or more; arguments left out are `{}`. A tool in a namespace is
/// `<namespace>.<name>`.
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
            let (namespace, name) = match name.rsplit_once('.') {
                Some((namespace, name)) => (Some(namespace.to_owned()), name),
                None => (None, name),
            };
            calls.push(Call { namespace, name: name.to_owned(), arguments: arguments.to_owned() });
        }
        rest = tail;
    }
    (!calls.is_empty()).then_some(calls)
}

/// `SEARCH "<json string>"`: what to search the web for.
pub(crate) fn search(text: &str) -> Option<String> {
    after(text, "SEARCH").find_map(|rest| serde_json::from_str(json_prefix(rest)?.0).ok())
}

/// `JSON <json>`, `SAY <text to the end>` and `SLOW <n> <ms>`.
pub(crate) fn dictated(text: &str) -> Option<Body> {
    let json = after(text, "JSON").find_map(json_prefix).map(|(json, _)| Body::text(json));
    json.or_else(|| {
        let rest = after(text, "SAY").next()?;
        Some(Body::text(rest.strip_prefix(char::is_whitespace).unwrap_or(rest)))
    })
    .or_else(|| after(text, "REFUSE").next().map(|rest| Body::Refusal(rest.trim().to_owned())))
    .or_else(|| after(text, "SLOW").find_map(slow))
}

/// `PACE <ms>`: the pause before each word of a text.
pub(crate) fn pace(text: &str) -> Option<Duration> {
    let milliseconds = |rest: &str| rest.split_whitespace().next()?.parse::<u64>().ok();
    Some(Duration::from_millis(after(text, "PACE").find_map(milliseconds)?.min(MAX_PAUSE_MS)))
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
        let status = |status, retry_after| Failure::Status { status, retry_after, code: None };
        let failed = |code, retry_after, late| Failure::Failed { code, retry_after, late };
        assert_eq!(failure("FAIL 429 7"), planned(status(429, Some(7)), false));
        assert_eq!(failure("please FAIL 500, thanks"), planned(status(500, None), false));
        assert_eq!(failure("FAIL once 503 SAY hello"), planned(status(503, None), true));
        assert_eq!(failure("FAIL stream"), planned(Failure::Cut, false));
        assert_eq!(failure("FAIL once stall."), planned(Failure::Stall, true));
        assert_eq!(failure("FAIL usage"), planned(Failure::UsageLimit, false));
        assert_eq!(failure("FAIL quote"), planned(Failure::Quote, false));
        let context = failed("context_length_exceeded", None, false);
        assert_eq!(failure("FAIL context"), planned(context, false));
        assert_eq!(failure("FAIL incomplete"), planned(Failure::Incomplete("max_output_tokens"), false));
        assert_eq!(failure("FAIL filter"), planned(Failure::Incomplete("content_filter"), false));
        assert_eq!(failure("FAIL slow_down 3"), planned(failed("slow_down", Some(3), false), false));
        assert_eq!(failure("FAIL once late cyber_policy"), planned(failed("cyber_policy", None, true), true));
        let coded = Failure::Status { status: 429, retry_after: Some(2), code: Some("insufficient_quota") };
        assert_eq!(failure("FAIL 429 2 insufficient_quota"), planned(coded, false));
        let coded = Failure::Status { status: 503, retry_after: None, code: Some("slow_down") };
        assert_eq!(failure("FAIL 503 slow_down"), planned(coded, false));
        for none in ["FAIL", "FAIL 200", "FAIL whale", "FAIL late", "FAIL late 500", "FAILED 500", "fail 500"]
        {
            assert_eq!(failure(none), None, "{none}");
        }
    }

    #[test]
    fn calls_keep_their_arguments_as_written() {
        let call = |name: &str, arguments: &str| Call {
            namespace: None,
            name: name.into(),
            arguments: arguments.into(),
        };
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
        let grouped = calls("CALLTOOL crm.find {}").unwrap();
        assert_eq!((grouped[0].namespace.as_deref(), grouped[0].name.as_str()), (Some("crm"), "find"));
    }

    #[test]
    fn dictated_text_is_exact() {
        assert_eq!(text(dictated(r#"give JSON {"a": [1,  2]} now"#)).as_deref(), Some(r#"{"a": [1,  2]}"#));
        assert_eq!(
            text(dictated("x SAY  two  spaces\nand a line ")).as_deref(),
            Some(" two  spaces\nand a line ")
        );
        assert_eq!(text(dictated("answer in JSON please")), None);
        assert_eq!(dictated("REFUSE not that"), Some(Body::Refusal("not that".into())));
        let slow = Body::Text { text: "w0 w1 w2".into(), pause: Duration::from_millis(40) };
        assert_eq!(dictated("SLOW 3 40"), Some(slow));
        assert_eq!(dictated("SLOW down"), None);
    }

    #[test]
    fn a_pace_is_a_number_of_milliseconds() {
        assert_eq!(pace("PACE 40 SAY x"), Some(Duration::from_millis(40)));
        assert_eq!(pace("keep PACE, PACE 7"), Some(Duration::from_millis(7)));
        assert_eq!(pace("PACE 9999999999"), Some(Duration::from_millis(MAX_PAUSE_MS)));
        for none in ["PACE", "PACE up", "SPACE 4", "pace 4"] {
            assert_eq!(pace(none), None, "{none}");
        }
    }
}
