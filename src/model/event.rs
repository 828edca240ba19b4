//! What a turn tells while it runs.

use std::time::SystemTime;

use super::{Item, ThreadId, TurnId};

/// One step of a running turn, in order. The stream ends after the one terminal event, which the bridge
/// adds as an outcome or an error of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum TurnEvent {
    /// The turn runs; always first, exactly once.
    Started {
        /// The native thread.
        thread: ThreadId,
        /// The native turn.
        turn: TurnId,
    },
    /// An assistant message begins.
    MessageStarted {
        /// The item's id, as in its later `ItemDone`.
        item_id: String,
    },
    /// More text of the message.
    TextDelta {
        /// The message.
        item_id: String,
        /// Never empty; never a prefix that was sent before.
        delta: String,
    },
    /// A reasoning item begins.
    ReasoningStarted {
        /// The item's id, as in its later `ItemDone`.
        item_id: String,
    },
    /// A new part of the reasoning summary begins.
    SummaryPartAdded {
        /// The reasoning item.
        item_id: String,
        /// Which part, from 0.
        index: u32,
    },
    /// More text of a summary part.
    SummaryDelta {
        /// The reasoning item.
        item_id: String,
        /// Which part, from 0.
        index: u32,
        /// Never empty.
        delta: String,
    },
    /// More raw reasoning text, where the model gives it.
    ReasoningDelta {
        /// The reasoning item.
        item_id: String,
        /// Which content part, from 0.
        index: u32,
        /// Never empty.
        delta: String,
    },
    /// An item is complete, as the model gave it: its id is the one of its earlier events. Items without
    /// earlier events come this way alone.
    ItemDone(Item),
}

/// How a turn ended well.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// The upstream response's own id.
    pub upstream_response_id: Option<String>,
    /// Exact figures of the upstream response; `None` if they never came.
    pub usage: Option<Usage>,
    /// The model that answered, a catalogue id.
    pub model: String,
    /// All output items, in order.
    pub output: Vec<Item>,
    /// Why the answer is not whole; `None` where it is.
    pub incomplete: Option<IncompleteReason>,
    /// A stop sequence of the client's ended it.
    pub stopped: bool,
    /// How it can be continued; `None` where nothing is kept of it.
    pub kept: Option<Kept>,
}

/// What is kept of an answer for its continuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// What it survives, in the response store's word for it; `memory` too where the store failed.
    pub durability: &'static str,
    /// Responses in its chain, itself included.
    pub chain_length: u32,
    /// When it goes, unless it is used before.
    pub expires_at: SystemTime,
}

/// Why an answer is not whole, in the words of `incomplete_details.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncompleteReason {
    /// The token limit, the client's or the backend's own.
    MaxOutputTokens,
    /// The backend's filter.
    ContentFilter,
}

impl IncompleteReason {
    /// Its official word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxOutputTokens => "max_output_tokens",
            Self::ContentFilter => "content_filter",
        }
    }

    /// The inverse of [`IncompleteReason::as_str`].
    pub fn of(word: &str) -> Option<Self> {
        [Self::MaxOutputTokens, Self::ContentFilter].into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Tokens of one upstream response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input_tokens: u64,
    /// Input tokens read from the provider's cache.
    pub cached_input_tokens: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write_input_tokens: u64,
    /// All output tokens, reasoning included.
    pub output_tokens: u64,
    /// Output tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Input and output.
    pub total_tokens: u64,
}

/// Of several upstream responses together.
impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            cached_input_tokens: self.cached_input_tokens + other.cached_input_tokens,
            cache_write_input_tokens: self.cache_write_input_tokens + other.cache_write_input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            reasoning_tokens: self.reasoning_tokens + other.reasoning_tokens,
            total_tokens: self.total_tokens + other.total_tokens,
        }
    }
}
