//! A limit in tokens, counted with the tokenizer of the GPT-5 family (`o200k_base`).
//!
//! A text's tokens are settled up to a blank that follows something else: no token crosses that place,
//! whatever comes later. Text past the last such place is told only while it fits in any case, one token a
//! byte at most.

use tiktoken_rs::o200k_base_singleton;

/// Without a settled place in sight: this many tokens past the limit are proof enough that it is passed.
const SLACK: usize = 64;

/// Lets through what fits into the limit.
#[derive(Debug, Clone)]
pub(super) struct TokenLimit {
    /// Tokens left after the settled text.
    left: usize,
    /// Text that is not settled.
    tail: String,
    /// How much of the tail has been told, bytes.
    told: usize,
    reached: bool,
}

impl TokenLimit {
    pub(super) fn new(max_tokens: u64) -> Self {
        let left = usize::try_from(max_tokens).unwrap_or(usize::MAX);
        Self { left, tail: String::new(), told: 0, reached: false }
    }

    /// The text that fits for certain.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.reached {
            return String::new();
        }
        self.tail.push_str(text);
        let mut out = String::new();
        if self.tail.len() > self.left {
            if let Some(at) = settled(&self.tail) {
                let rest = self.tail.split_off(at);
                // Text past `at` may have been told already.
                let told = self.told.saturating_sub(at);
                out.push_str(&self.settle());
                (self.tail, self.told) = (rest, told);
            }
            if !self.reached && self.tail.len() > self.left {
                let tokens = o200k_base_singleton().encode_ordinary(&self.tail);
                if tokens.len() > self.left.saturating_add(SLACK) {
                    out.push_str(&self.settle());
                }
            }
        }
        if !self.reached && self.tail.len() <= self.left {
            out.push_str(&self.tail[self.told..]);
            self.told = self.tail.len();
        }
        out
    }

    /// What was held back, when nothing more comes.
    pub(super) fn end(&mut self) -> String {
        if self.reached { String::new() } else { self.settle() }
    }

    /// Whether the limit cut something off.
    pub(super) fn reached(&self) -> bool {
        self.reached
    }

    /// Counts the whole tail as final; gives what of it fits and was not told.
    fn settle(&mut self) -> String {
        let tail = std::mem::take(&mut self.tail);
        let told = std::mem::take(&mut self.told);
        let count = o200k_base_singleton().encode_ordinary(&tail).len();
        if count <= self.left {
            self.left -= count;
            return tail[told.min(tail.len())..].to_owned();
        }
        self.reached = true;
        let mut fits = first(&tail, self.left as u64);
        self.left = 0;
        fits.split_off(told.min(fits.len()))
    }
}

/// How many tokens `text` has.
pub(in super::super) fn count(text: &str) -> u64 {
    o200k_base_singleton().encode_ordinary(text).len() as u64
}

/// The part of `text` that its first `max` tokens make up, whole characters only.
pub(super) fn first(text: &str, max: u64) -> String {
    let tokens = o200k_base_singleton().encode_ordinary(text);
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    if tokens.len() <= max {
        return text.to_owned();
    }
    let bytes = o200k_base_singleton().decode_bytes(&tokens[..max]).map_or(0, |bytes| bytes.len());
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

/// The last place of `text` that no token crosses: a blank after something that is not white space.
fn settled(text: &str) -> Option<usize> {
    let mut after_word = false;
    let mut last = None;
    for (at, c) in text.char_indices() {
        if c == ' ' && after_word {
            last = Some(at);
        }
        after_word = !c.is_whitespace();
    }
    last
}
