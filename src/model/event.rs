//! What a turn tells while it runs.

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
}

/// Why an answer is not whole, in the words of `incomplete_details.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncompleteReason {
    /// The token limit, the client's or the backend's own.
    MaxOutputTokens,
    /// The backend's filter.
    ContentFilter,
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
