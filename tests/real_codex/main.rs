//! Behaviour against the real codex binary: `CODEX_BIN`, or the project's own install in `.cache/codex`.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// These stand elsewhere because other tests use them too.
#[path = "../support/http.rs"]
mod http;
#[path = "../support/redis.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod redis_server;
#[path = "../../src/api/spec.rs"]
mod spec;

// The table that makes the errors: the tests walk it.
#[expect(dead_code, reason = "the words are for the README")]
#[path = "../../src/api/error/table.rs"]
mod table;

mod support;
mod world;

mod affinity;
mod bad_input;
mod calls;
mod client;
mod connect;
mod continuation;
mod failures;
mod files;
mod leaks;
mod lifecycle;
mod process;
mod supervisor;
mod tool_types;
mod tools;
mod trace;
mod transcript;
mod walk;
