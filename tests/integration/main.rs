//! The daemon before a scripted app-server: what the real one cannot be made to do.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// Stands here because two test binaries share it.
#[path = "../support/http.rs"]
mod http;

mod daemon;
mod peer;

mod admission;
mod connection;
mod endings;
mod failures;
mod leaving;
mod limits;
mod retries;
mod shutdown;
mod strangeness;
mod structured;
