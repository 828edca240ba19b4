//! What a thread tells.

use std::fmt;

use serde_json::Value;

use crate::app_server::connection::ToolCallReply;
use crate::app_server::error::{DisconnectReason, TurnFailure};
use crate::model::{Item, TurnId, Usage};

/// One event of a thread, in the order of the wire. `Debug` shows no text.
#[derive(Clone, PartialEq)]
pub enum ThreadEvent {
    /// A turn runs.
    TurnStarted {
        /// Which.
        turn: TurnId,
    },
    /// An item begins.
    ItemStarted {
        /// Of this turn.
        turn: TurnId,
        /// What it is.
        kind: ItemKind,
        /// Its id, as in its later events.
        item_id: String,
    },
    /// More text of a message. A retried stream sends it again from the start, under the same id.
    TextDelta {
        /// Of this turn.
        turn: TurnId,
        /// The message.
        item_id: String,
        /// The text.
        delta: String,
    },
    /// A part of the reasoning summary begins.
    SummaryPartAdded {
        /// Of this turn.
        turn: TurnId,
        /// The reasoning item.
        item_id: String,
        /// Which part, from 0.
        index: u32,
    },
    /// More text of a summary part.
    SummaryDelta {
        /// Of this turn.
        turn: TurnId,
        /// The reasoning item.
        item_id: String,
        /// Which part, from 0.
        index: u32,
        /// The text.
        delta: String,
    },
    /// More raw reasoning text.
    ReasoningDelta {
        /// Of this turn.
        turn: TurnId,
        /// The reasoning item.
        item_id: String,
        /// Which content part, from 0.
        index: u32,
        /// The text.
        delta: String,
    },
    /// An output item as the model gave it. Injected items that are echoed never show here.
    RawItem {
        /// Of this turn.
        turn: TurnId,
        /// The item.
        item: Item,
    },
    /// An item is complete, in the app-server's own reckoning.
    ItemCompleted {
        /// Of this turn.
        turn: TurnId,
        /// What it is.
        kind: ItemKind,
        /// Its id.
        item_id: String,
        /// A message or reasoning as far as that reckoning has it: without encrypted content, citations and
        /// the like.
        item: Option<Item>,
    },
    /// A call that the app-server answered by itself, with a tool of its own, has ended.
    OwnCallDone {
        /// Of this turn.
        turn: TurnId,
        /// The call.
        call_id: String,
        /// What became of it, as the item that stands for such a call in the Responses API.
        item: Item,
    },
    /// One upstream response is complete.
    ResponseCompleted {
        /// Of this turn.
        turn: TurnId,
        /// The upstream's own id.
        response_id: String,
        /// Its exact usage.
        usage: Option<Usage>,
    },
    /// The thread's running token count.
    UsageUpdated {
        /// Of this turn.
        turn: TurnId,
        /// The last upstream response's usage.
        last: Usage,
    },
    /// The model calls a function, and the turn waits for the answer.
    ToolCall {
        /// Of this turn.
        turn: TurnId,
        /// The call.
        call_id: String,
        /// The function's namespace, if it stands in one.
        namespace: Option<String>,
        /// The function.
        name: String,
        /// Its arguments.
        arguments: Value,
        /// Takes the answer.
        reply: ToolCallReply,
    },
    /// The app-server tries again after a failure.
    Retrying {
        /// Of this turn.
        turn: TurnId,
        /// What failed.
        failure: TurnFailure,
    },
    /// The turn has ended.
    TurnCompleted {
        /// Which.
        turn: TurnId,
        /// How.
        status: TurnStatus,
    },
    /// Deltas were dropped because nobody took them; no more come in this turn. Comes once a turn.
    Overflow,
    /// Nothing comes after this, ever.
    Closed(DisconnectReason),
}

impl ThreadEvent {
    /// The turn that it is of; `None` for what is of the whole thread.
    pub fn turn(&self) -> Option<&TurnId> {
        match self {
            Self::TurnStarted { turn }
            | Self::ItemStarted { turn, .. }
            | Self::TextDelta { turn, .. }
            | Self::SummaryPartAdded { turn, .. }
            | Self::SummaryDelta { turn, .. }
            | Self::ReasoningDelta { turn, .. }
            | Self::RawItem { turn, .. }
            | Self::ItemCompleted { turn, .. }
            | Self::OwnCallDone { turn, .. }
            | Self::ResponseCompleted { turn, .. }
            | Self::UsageUpdated { turn, .. }
            | Self::ToolCall { turn, .. }
            | Self::Retrying { turn, .. }
            | Self::TurnCompleted { turn, .. } => Some(turn),
            Self::Overflow | Self::Closed(_) => None,
        }
    }
}

/// What an item is, as far as the bridge cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// `agentMessage`.
    Message,
    /// `reasoning`.
    Reasoning,
    /// `contextCompaction`.
    ContextCompaction,
    /// Anything else, by its wire name.
    Other(String),
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnStatus {
    /// Well.
    Completed,
    /// By an interrupt.
    Interrupted,
    /// Not well.
    Failed(TurnFailure),
}

/// What a thread does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadStatus {
    /// The app-server does not hold it.
    NotLoaded,
    /// No turn runs.
    Idle,
    /// A turn runs.
    Active,
    /// The app-server lost it.
    SystemError,
    /// A word we do not know yet.
    Unknown(String),
}

impl fmt::Debug for ThreadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = |name: &str, turn: &TurnId, item: &str, delta: &str| {
            f.debug_struct(name)
                .field("turn", turn)
                .field("item_id", &item)
                .field("bytes", &delta.len())
                .finish()
        };
        match self {
            Self::TextDelta { turn, item_id, delta } => text("TextDelta", turn, item_id, delta),
            Self::SummaryDelta { turn, item_id, delta, .. } => text("SummaryDelta", turn, item_id, delta),
            Self::ReasoningDelta { turn, item_id, delta, .. } => text("ReasoningDelta", turn, item_id, delta),
            Self::TurnStarted { turn } => f.debug_struct("TurnStarted").field("turn", turn).finish(),
            Self::ItemStarted { turn, kind, item_id } => debug_item(f, "ItemStarted", turn, kind, item_id),
            Self::ItemCompleted { turn, kind, item_id, .. } => {
                debug_item(f, "ItemCompleted", turn, kind, item_id)
            }
            Self::SummaryPartAdded { turn, item_id, index } => f
                .debug_struct("SummaryPartAdded")
                .field("turn", turn)
                .field("item_id", item_id)
                .field("index", index)
                .finish(),
            Self::RawItem { turn, item } => {
                f.debug_struct("RawItem").field("turn", turn).field("item", item).finish()
            }
            Self::OwnCallDone { turn, call_id, item } => f
                .debug_struct("OwnCallDone")
                .field("turn", turn)
                .field("call_id", call_id)
                .field("item", item)
                .finish(),
            Self::ResponseCompleted { turn, response_id, usage } => f
                .debug_struct("ResponseCompleted")
                .field("turn", turn)
                .field("response_id", response_id)
                .field("usage", usage)
                .finish(),
            Self::UsageUpdated { turn, last } => {
                f.debug_struct("UsageUpdated").field("turn", turn).field("last", last).finish()
            }
            Self::ToolCall { turn, call_id, namespace, name, .. } => f
                .debug_struct("ToolCall")
                .field("turn", turn)
                .field("call_id", call_id)
                .field("namespace", namespace)
                .field("name", name)
                .finish_non_exhaustive(),
            Self::Retrying { turn, failure } => {
                f.debug_struct("Retrying").field("turn", turn).field("failure", failure).finish()
            }
            Self::TurnCompleted { turn, status } => {
                f.debug_struct("TurnCompleted").field("turn", turn).field("status", status).finish()
            }
            Self::Overflow => f.write_str("Overflow"),
            Self::Closed(reason) => f.debug_tuple("Closed").field(reason).finish(),
        }
    }
}

fn debug_item(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    turn: &TurnId,
    kind: &ItemKind,
    item_id: &str,
) -> fmt::Result {
    f.debug_struct(name).field("turn", turn).field("kind", kind).field("item_id", &item_id).finish()
}
