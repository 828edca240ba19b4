//! HTTP: the two OpenAI-compatible APIs, models, health.

mod edge;
mod router;
mod server;

mod access;
mod auth;
mod auth_backoff;
mod batches;
mod classes;
mod compactions;
mod dry_run;
mod effort;
mod extract;
mod file_objects;
mod identity;
mod ignored;
mod lease;
mod limits;
mod max_wait;
mod observe;
mod origin;
mod request_id;

mod chat_completions;
mod conversations;
mod fallback;
mod health;
mod models;
mod not_found;
mod openapi;
mod responses;
mod usage;

mod answer;
mod fields;
mod format;
mod intake;
mod items;
mod list;
mod query;
mod read;
mod tier;
mod time;
mod tools;

mod audio;
mod fetch;
mod files;
mod images;
mod inline_data;

mod error;
mod sse;

#[cfg(test)]
mod spec;
#[cfg(test)]
mod spec_samples;
#[cfg(test)]
mod testing;

pub(crate) use batches::line as batch_line;
pub use edge::{Edge, EdgeError};
pub use files::pdf;
pub use openapi::document as openapi_document;
pub use router::router;
pub use server::serve;
