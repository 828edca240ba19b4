//! The engine before a scripted app-server, in memory and on paused time.

mod limits;
mod scene;
mod tools;

pub(super) use scene::{ask, function};
