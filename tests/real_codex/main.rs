//! Behaviour against the real codex binary: `CODEX_BIN`, or the project's own install in `.cache/codex`.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// Both stand elsewhere because other tests use them too.
#[path = "../support/http.rs"]
mod http;
#[path = "../../src/api/spec.rs"]
mod spec;

mod support;
mod world;

mod bad_input;
mod calls;
mod client;
mod connect;
mod failures;
mod leaks;
mod lifecycle;
mod supervisor;
mod tools;
