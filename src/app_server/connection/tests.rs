use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::app_server::testing::{FakeAppServer, bounded};
use crate::app_server::{ItemKind, ThreadEvent, TurnOptions, TurnStatus};
use crate::model::{Item, TurnId, Usage};

fn options() -> ConnectOptions {
    ConnectOptions { request_timeout: Duration::from_secs(5), generation: 7, ..ConnectOptions::default() }
}

async fn connected() -> (Connection, FakeAppServer, Tasks) {
    let tasks = Tasks::new();
    let (connection, fake) = FakeAppServer::connect(options(), &tasks).await;
    (connection, fake, tasks)
}

fn hello() -> Vec<Item> {
    vec![Item::input_text("user", "hello")]
}

fn delta(item: &str, text: &str) -> Value {
    json!({"threadId": "t1", "turnId": "u1", "itemId": item, "delta": text})
}

fn ended() -> Value {
    json!({"threadId": "t1", "turn": {"id": "u1", "items": [], "status": "completed", "error": null}})
}

mod handshake;
mod limits;
mod requests;
mod threads;
