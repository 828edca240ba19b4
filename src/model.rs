//! The words all layers share: items, turn requests and events, usage, ids. No I/O, no HTTP, no JSON-RPC.

mod catalogue;
mod event;
mod ids;
mod item;
mod request;

pub use catalogue::{Account, LoginState, ModelInfo};
pub use event::{IncompleteReason, Outcome, TurnEvent, Usage};
pub use ids::{KeyId, RequestId, ResponseId, ThreadId, TurnId};
pub use item::{Item, PackedItems};
pub use request::{FunctionTool, Retention, ToolChoice, TurnRequest};
