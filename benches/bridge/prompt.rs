//! What every client asks, and the answer it must get.

use anyhow::ensure;

/// The instructions of every call.
pub(crate) const INSTRUCTIONS: &str = "Repeat what follows SAY.";

/// One question; no two are alike, so that an answer to another one shows.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// The user's words.
    pub(crate) question: String,
    answer: String,
}

impl Prompt {
    /// The question of call `n`, answered in `words` words.
    pub(crate) fn new(n: usize, words: usize) -> Self {
        let mut answer = format!("call {n}:");
        for word in 0..words.saturating_sub(2) {
            answer.push_str(" w");
            answer.push_str(&(n * 31 + word).to_string());
        }
        Self { question: format!("SAY {answer}"), answer }
    }

    /// Compares every byte.
    pub(crate) fn check(&self, what: &str, got: &str) -> anyhow::Result<()> {
        ensure!(got == self.answer, "{what} is {got:?}, not {:?}", self.answer);
        Ok(())
    }
}
