//! HTTP: the two OpenAI-compatible APIs, models, health.

mod edge;
mod router;
mod server;

mod auth;
mod effort;
mod extract;
mod ignored;
mod observe;
mod origin;
mod request_id;

mod chat_completions;
mod health;
mod models;
mod not_found;
mod responses;

mod answer;
mod fields;
mod format;
mod images;
mod items;
mod read;
mod tools;

mod error;
mod sse;

#[cfg(test)]
mod spec;
#[cfg(test)]
mod testing;

pub use edge::{Edge, EdgeError};
pub use router::router;
pub use server::serve;
