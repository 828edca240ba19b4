//! `codex-bridge`: a local, OpenAI-compatible endpoint over a logged-in `codex app-server`.
//!
//! The modules in reading order; imports run one way, from the top of this list to its end
//! (`scripts/check` fails on one that runs back):
//!
//! - [`cli`]: the subcommands, one file each.
//! - [`app`]: a configuration becomes a running daemon; ordered drain.
//! - [`standin`]: the stand-in model provider behind `demo`, the tests and the benches.
//! - [`api`]: HTTP: the two OpenAI-compatible APIs, models, health.
//! - [`bridge`]: turns, slots, continuations.
//! - [`app_server`]: the JSON-RPC client of `codex app-server`, its child and its private home.
//! - [`store`]: what is kept of responses: in memory, on disk, or shared.
//! - [`config`], [`telemetry`], [`tasks`]: what every layer is built with.
//! - [`model`]: the words they share: items, requests, events, usage.

pub mod cli;

pub mod app;

pub mod standin;

pub mod api;

pub mod bridge;

pub mod app_server;
pub mod store;

pub mod config;
pub mod tasks;
pub mod telemetry;

pub mod model;

#[cfg(test)]
mod fuzzing;
