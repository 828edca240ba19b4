//! Behaviour against the real codex binary: `CODEX_BIN`, or the project's own install in `.cache/codex`.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// These stand elsewhere because other tests use them too.
#[path = "../../src/api/openapi/described.rs"]
mod described;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/redis.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod redis_server;
#[path = "../support/socket.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod socket_client;
#[path = "../../src/api/spec.rs"]
mod spec;

// The table that makes the errors: the tests walk it.
#[expect(dead_code, reason = "the words are for the README")]
#[path = "../../src/api/error/table.rs"]
mod table;

mod support;
mod world;

mod account;
mod affinity;
mod background;
mod bad_input;
mod batches;
mod calls;
mod classes;
mod client;
mod compact;
mod connect;
mod continuation;
mod conversations;
mod failures;
mod files;
mod leaks;
mod lifecycle;
mod orphans;
mod pool;
mod process;
mod restarts;
mod security;
mod socket;
mod supervisor;
mod tool_types;
mod tools;
mod trace;
mod transcript;
mod walk;
