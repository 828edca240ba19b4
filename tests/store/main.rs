//! The response store, each backend as the bridge uses it.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// Stands here because the bench shares it.
#[path = "../support/redis.rs"]
mod redis;

mod records;

mod conformance;
mod documents;
mod embedded;
mod encryption;
mod limits;
mod shared;
