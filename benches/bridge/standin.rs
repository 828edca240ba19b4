//! What the model really saw, as the stand-in kept it.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use codex_bridge::tasks::Tasks;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde::Deserialize;
use serde_json::Value;

use crate::http::Connection;
use crate::prompt::{INSTRUCTIONS, Prompt};

/// One request to the model.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    /// Of the body.
    pub(crate) bytes: u64,
    input: Vec<Value>,
}

/// The last requests.
pub(crate) async fn seen(address: SocketAddr, tasks: &Tasks) -> anyhow::Result<Vec<Seen>> {
    let request = Request::get("/requests").body(Full::<Bytes>::default())?;
    let body = Connection::open(address, tasks).await?.send(request).await?;
    Ok(serde_json::from_slice(&body.collect().await?.to_bytes())?)
}

/// The request that carried `prompt`, having checked that the model saw the client's words and no others.
pub(crate) fn find<'a>(seen: &'a [Seen], prompt: &Prompt) -> anyhow::Result<&'a Seen> {
    let expected = [("developer", INSTRUCTIONS), ("user", prompt.question.as_str())];
    let (_, question) = expected[1];
    let one = seen.iter().find(|one| one.input.last().and_then(text) == Some(question));
    let one = one.with_context(|| format!("the model never saw {question:?}"))?;
    let input: Vec<_> =
        one.input.iter().filter_map(|item| Some((item["role"].as_str()?, text(item)?))).collect();
    ensure!(input == expected && one.input.len() == expected.len(), "the model saw {:?}", one.input);
    Ok(one)
}

fn text(item: &Value) -> Option<&str> {
    match item["content"].as_array()?.as_slice() {
        [part] => part["text"].as_str(),
        _ => None,
    }
}
