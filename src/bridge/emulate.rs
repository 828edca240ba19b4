//! Rules the backend does not know, applied to the answer's text as it streams: a token limit and stop
//! sequences. However the text is cut into deltas, what comes out is the rule applied to the whole text:
//! first the limit, then the first stop sequence that completes within it.

mod stop;
mod tokens;

use stop::StopFinder;
use tokens::TokenLimit;

pub(super) use tokens::count;

/// Why the text ends before the model's own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// A stop sequence; it is not part of the text.
    Stop,
    /// The token limit.
    Length,
}

/// The two rules in a row, for one answer.
#[derive(Debug, Clone)]
pub(super) struct Emulation {
    limit: Option<TokenLimit>,
    stop: Option<StopFinder>,
    cut: Option<Cut>,
}

impl Emulation {
    /// `max_tokens` counts the answer's text; `stop` are sequences that end it. `None` where there is nothing
    /// to apply.
    pub(super) fn new(max_tokens: Option<u64>, stop: &[String]) -> Option<Self> {
        let stop: Vec<String> = stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        if max_tokens.is_none() && stop.is_empty() {
            return None;
        }
        Some(Self {
            limit: max_tokens.map(TokenLimit::new),
            stop: (!stop.is_empty()).then(|| StopFinder::new(stop)),
            cut: None,
        })
    }

    /// What of `delta` may be told now. Once there is a cut nothing more is.
    pub(super) fn push(&mut self, delta: &str) -> String {
        self.step(delta, /*ended*/ false)
    }

    /// The model's own end: what was held back, up to a cut.
    pub(super) fn end(&mut self) -> String {
        self.step("", /*ended*/ true)
    }

    /// Whether, and why, the text has ended.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.cut
    }

    fn step(&mut self, delta: &str, ended: bool) -> String {
        if self.cut.is_some() {
            return String::new();
        }
        let (within, reached) = match &mut self.limit {
            None => (delta.to_owned(), false),
            Some(limit) => {
                let mut within = limit.push(delta);
                if ended {
                    within.push_str(&limit.end());
                }
                (within, limit.reached())
            }
        };
        let Some(stop) = &mut self.stop else {
            self.cut = reached.then_some(Cut::Length);
            return within;
        };
        let mut out = stop.push(&within);
        if stop.found() {
            self.cut = Some(Cut::Stop);
        } else if reached || ended {
            out.push_str(&stop.end());
            self.cut = reached.then_some(Cut::Length);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, said on the whole text.
    fn rule(text: &str, max_tokens: Option<u64>, stops: &[String]) -> (String, Option<Cut>) {
        let limited = max_tokens.map_or(text.to_owned(), |max| tokens::first(text, max));
        let end_of = |stop: &String| limited.find(stop.as_str()).map(|at| (at + stop.len(), at));
        match stops.iter().filter_map(end_of).min() {
            Some((_, at)) => (limited[..at].to_owned(), Some(Cut::Stop)),
            None if limited.len() < text.len() => (limited, Some(Cut::Length)),
            None => (limited, None),
        }
    }

    fn stream(
        text: &str,
        cuts: &[usize],
        max_tokens: Option<u64>,
        stops: &[String],
    ) -> (String, Option<Cut>) {
        let Some(mut emulation) = Emulation::new(max_tokens, stops) else { return (text.to_owned(), None) };
        let chars: Vec<char> = text.chars().collect();
        let (mut rest, mut out) = (&chars[..], String::new());
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at((*cuts.next().unwrap_or(&1)).clamp(1, rest.len()));
            rest = tail;
            out.push_str(&emulation.push(&head.iter().collect::<String>()));
        }
        out.push_str(&emulation.end());
        (out, emulation.cut())
    }

    #[test]
    fn a_stop_sequence_never_leaks_a_part_of_itself() {
        let mut emulation = Emulation::new(None, &["STOP".into()]).unwrap();
        assert_eq!(emulation.push("one ST"), "one ");
        assert_eq!(emulation.push("AND ST"), "STAND ");
        assert_eq!(emulation.push("OP two"), "");
        assert_eq!(
            (emulation.push("x"), emulation.end(), emulation.cut()),
            (String::new(), String::new(), Some(Cut::Stop))
        );
    }

    #[test]
    fn a_held_back_part_comes_out_at_the_end() {
        let mut emulation = Emulation::new(None, &["STOP".into()]).unwrap();
        assert_eq!(emulation.push("one STO"), "one ");
        assert_eq!((emulation.end().as_str(), emulation.cut()), ("STO", None));
    }

    #[test]
    fn nothing_to_apply_is_nothing() {
        assert!(Emulation::new(None, &[String::new()]).is_none());
    }

    fn words() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[a-e]{1,6}",
            "[A-Za-z0-9]{1,12}",
            "\\PC{0,5}",
            Just(" ".into()),
            Just("  \n ".into()),
            Just("can't".into()),
            Just("日本語の文章".into()),
            Just("👩‍👩‍👧".into()),
            Just("...//\n".into()),
        ];
        prop::collection::vec(word, 0..40).prop_map(|words: Vec<String>| words.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn the_stream_is_the_rule_applied_to_the_whole(
            text in words(),
            cuts in prop::collection::vec(1usize..9, 1..8),
            max_tokens in prop::option::of(0u64..40),
            stops in prop::collection::vec("[a-e ]{1,3}", 0..4),
        ) {
            prop_assert_eq!(stream(&text, &cuts, max_tokens, &stops), rule(&text, max_tokens, &stops));
        }
    }
}
