//! Retried answers: when the app-server tries an upstream response again, its deltas start from the
//! beginning, and what the client already has must not reach it twice.

/// The text of one output stream (a message, a summary part) as the client has it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: String,
    /// While a retry repeats what was sent: how far it has come, in bytes.
    repeated: Option<usize>,
}

/// A retry said something else than what was already sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Diverged;

impl Replay {
    /// The part of `delta` that is new to the client; `None` if all of it was sent before.
    pub(super) fn take(&mut self, delta: String) -> Result<Option<String>, Diverged> {
        let Some(repeated) = self.repeated else {
            self.sent.push_str(&delta);
            return Ok(Some(delta).filter(|delta| !delta.is_empty()));
        };
        let left = &self.sent.as_bytes()[repeated..];
        let shared = left.len().min(delta.len());
        if left[..shared] != delta.as_bytes()[..shared] {
            return Err(Diverged);
        }
        if delta.len() <= left.len() {
            self.repeated = Some(repeated + delta.len());
            return Ok(None);
        }
        // `shared` is a character boundary of `delta`: `sent` ends there, and the bytes are the same.
        let fresh = delta[shared..].to_owned();
        self.sent.push_str(&fresh);
        self.repeated = None;
        Ok(Some(fresh))
    }

    /// The upstream response is tried again: its text starts from the beginning.
    pub(super) fn restart(&mut self) {
        self.repeated = (!self.sent.is_empty()).then_some(0);
    }

    /// Whether the client has exactly `text`, or a beginning of it; gives what is missing.
    pub(super) fn rest_of<'a>(&self, text: &'a str) -> Result<&'a str, Diverged> {
        text.strip_prefix(self.sent.as_str()).ok_or(Diverged)
    }

    /// What the client has.
    pub(super) fn text(&self) -> &str {
        &self.sent
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(replay: &mut Replay, deltas: &[&str]) -> Result<String, Diverged> {
        let mut out = String::new();
        for delta in deltas {
            out.extend(replay.take((*delta).to_owned())?);
        }
        Ok(out)
    }

    #[test]
    fn a_repeated_prefix_is_swallowed_however_it_is_cut() {
        let mut replay = Replay::default();
        assert_eq!(feed(&mut replay, &["w0 ", "w1 "]).unwrap(), "w0 w1 ");
        replay.restart();
        assert_eq!(feed(&mut replay, &["w", "0 w1 w", "2 "]).unwrap(), "w2 ");
    }

    #[test]
    fn a_retry_that_says_something_else_is_noticed() {
        let mut replay = Replay::default();
        feed(&mut replay, &["one two"]).unwrap();
        replay.restart();
        assert_eq!(feed(&mut replay, &["one ", "three"]), Err(Diverged));
    }

    #[test]
    fn the_final_text_is_held_against_what_was_sent() {
        let mut replay = Replay::default();
        feed(&mut replay, &["one "]).unwrap();
        assert_eq!(replay.rest_of("one two"), Ok("two"));
        assert_eq!(replay.rest_of("other"), Err(Diverged));
    }

    proptest! {
        /// Whatever the cuts and however often it starts anew, the client gets the text once.
        #[test]
        fn the_client_gets_the_text_once(text in "\\PC{0,60}", attempts in prop::collection::vec(prop::collection::vec(1usize..7, 0..20), 1..5)) {
            let chars: Vec<char> = text.chars().collect();
            let mut replay = Replay::default();
            let mut out = String::new();
            let last = attempts.len() - 1;
            for (n, cuts) in attempts.iter().enumerate() {
                if n > 0 { replay.restart(); }
                let mut rest = &chars[..];
                for cut in cuts {
                    let (head, tail) = rest.split_at((*cut).min(rest.len()));
                    rest = tail;
                    out.extend(replay.take(head.iter().collect()).unwrap());
                }
                if n == last {
                    out.extend(replay.take(rest.iter().collect()).unwrap());
                }
            }
            prop_assert_eq!(out, text);
        }
    }
}
