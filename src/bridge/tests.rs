//! The engine before a scripted app-server, in memory and on paused time.

mod admission;
mod affinity;
mod continuation;
mod drain;
mod dry_run;
mod limits;
mod reruns;
pub(in crate::bridge) mod scene;
mod spares;
mod templates;
mod tools;
mod trace;

pub(super) use scene::{ask, function};
