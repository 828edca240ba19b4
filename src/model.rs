//! The words all layers share: items, turn requests and events, usage, ids. No I/O, no HTTP, no JSON-RPC.

mod catalogue;
mod event;
mod ids;
mod item;
mod request;
mod route;
mod session;
mod ticket;
mod tool;
mod trace;

pub use catalogue::{Account, LoginState, ModelInfo};
pub use event::{IncompleteReason, Kept, Outcome, TurnEvent, Usage};
pub use ids::{KeyId, RequestId, ResponseId, SessionId, TaskClass, ThreadId, TurnId};
pub use item::{Item, PackedItems};
pub use request::{Priority, Retention, TurnRequest};
pub use route::Route;
pub use session::{SessionIdentity, SessionSource};
pub use ticket::CallTicket;
pub use tool::{Location, Namespace, Strict, Tool, ToolChoice, ToolInput, ToolName, WebSearch, grammar};
pub use trace::{CallTrace, Ended, Phases, Rebuilt, Trace};
