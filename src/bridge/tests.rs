//! The engine before a scripted app-server, in memory and on paused time.

mod affinity;
mod continuation;
mod limits;
pub(in crate::bridge) mod scene;
mod spares;
mod templates;
mod tools;
mod trace;

pub(super) use scene::{ask, function};
