//! The daemon before a scripted app-server: what the real one cannot be made to do.
#![expect(clippy::expect_used, clippy::panic, reason = "what fails in a test's helpers fails the test")]

// These stand elsewhere because other tests use them too.
#[path = "../../src/api/openapi/described.rs"]
mod described;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/socket.rs"]
mod socket_client;
#[path = "../../src/api/spec.rs"]
mod spec;

// The table that makes the errors: the tests walk it.
#[expect(dead_code, reason = "the words are for the README")]
#[path = "../../src/api/error/table.rs"]
mod table;

mod daemon;
mod peer;

mod admission;
mod background;
mod batches;
mod compact;
mod completions;
mod connection;
mod conversations;
mod endings;
mod errors;
mod failures;
mod fallback;
mod files;
mod ignored;
mod kept;
mod keys;
mod leaving;
mod limits;
mod retries;
mod shutdown;
mod socket;
mod stalls;
mod strangeness;
mod structured;
mod tethers;
mod trace;
mod upstream;
