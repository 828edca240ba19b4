//! The best a client of the app-server can do: unix socket, its next thread started ahead, items and turn
//! written back to back, and nothing read that it has no use for.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::app_server::AppServer;
use crate::http::Sample;
use crate::process::CommandLine;
use crate::prompt::{INSTRUCTIONS, Prompt};
use crate::rpc::{self, Frame, Rpc};

/// Settings that keep Codex's own words and tools out of a call.
const OFF: [&str; 20] = [
    "include_environment_context",
    "include_permissions_instructions",
    "include_apps_instructions",
    "include_collaboration_mode_instructions",
    "skills.include_instructions",
    "skills.bundled.enabled",
    "features.shell_tool",
    "features.unified_exec",
    "features.goals",
    "features.multi_agent",
    "features.multi_agent_v2",
    "features.view_image",
    "features.apps",
    "features.plugins",
    "features.tool_suggest",
    "features.image_generation",
    "features.sleep_tool",
    "features.skill_search",
    "features.hooks",
    "tools.experimental_request_user_input.enabled",
];

/// The direct client.
#[derive(Debug)]
pub(crate) struct Direct {
    rpc: Rpc<UnixStream>,
    start: Value,
    /// Started ahead.
    next: String,
    /// To be let go.
    used: Option<String>,
    _app_server: AppServer,
}

impl Direct {
    /// Connects to an app-server of its own, started like `like`.
    pub(crate) async fn start(like: &CommandLine, folder: &Path, model: &str) -> anyhow::Result<Self> {
        let folder = folder.join("direct");
        let socket = folder.join("app-server.sock");
        std::fs::create_dir_all(&folder)?;
        let listen = format!("unix://{}", socket.display());
        let app_server = AppServer::start_like(like, &folder, listen.as_ref())?;
        let mut rpc = rpc::connect(|| UnixStream::connect(&socket)).await?;
        let start = thread_start(model, &folder)?;
        let next = start_thread(&mut rpc, &start).await?;
        Ok(Self { rpc, start, next, used: None, _app_server: app_server })
    }

    /// One measured call.
    pub(crate) async fn call(&mut self, prompt: &Prompt) -> anyhow::Result<Sample> {
        let started = Instant::now();
        self.rpc.feed("thread/inject_items", &inject(&self.next, prompt)).await?;
        let turn = self.rpc.feed("turn/start", &turn(&self.next)).await?;
        self.rpc.flush().await?;
        let sample = answer(&mut self.rpc, &self.next, turn, started, prompt).await?;
        self.used = Some(std::mem::take(&mut self.next));
        Ok(sample)
    }

    /// What a call leaves to be done once its answer is out: its thread let go, the next one started.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        if let Some(used) = self.used.take() {
            self.rpc.call("thread/unsubscribe", &json!({"threadId": used})).await?;
            self.next = start_thread(&mut self.rpc, &self.start).await?;
        }
        Ok(())
    }
}

/// Parameters of a lean thread; its folder is empty.
pub(crate) fn thread_start(model: &str, folder: &Path) -> anyhow::Result<Value> {
    let cwd = folder.join("empty");
    std::fs::create_dir_all(&cwd)?;
    let mut config: serde_json::Map<_, _> = OFF.iter().map(|key| ((*key).to_owned(), json!(false))).collect();
    config.insert("web_search".into(), json!("disabled"));
    config.insert("project_doc_max_bytes".into(), json!(0));
    config.insert("thread_unload_delay_secs".into(), json!(1));
    Ok(json!({
        "model": model,
        "cwd": cwd,
        "ephemeral": true,
        "approvalPolicy": "never",
        "sandbox": "read-only",
        "environments": [],
        "baseInstructions": "",
        "config": config,
    }))
}

pub(crate) async fn start_thread<S>(rpc: &mut Rpc<S>, params: &Value) -> anyhow::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let started = rpc.call("thread/start", params).await?;
    Ok(started.pointer("/thread/id").and_then(Value::as_str).context("a thread without an id")?.to_owned())
}

pub(crate) fn inject(thread: &str, prompt: &Prompt) -> Value {
    let message = |role: &str, text: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]});
    json!({"threadId": thread, "items": [message("developer", INSTRUCTIONS), message("user", &prompt.question)]})
}

pub(crate) fn turn(thread: &str) -> Value {
    json!({"threadId": thread, "input": []})
}

/// Reads the turn to its end and checks what it said.
pub(crate) async fn answer<S>(
    rpc: &mut Rpc<S>,
    thread: &str,
    request: u64,
    started: Instant,
    prompt: &Prompt,
) -> anyhow::Result<Sample>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut text, mut first, mut usage) = (String::new(), None, None);
    loop {
        let frame = rpc.next().await?;
        let frame = Frame::parse(&frame)?;
        frame.replies_to(request)?;
        let (Some(method), Some(params)) = (frame.method, frame.params) else { continue };
        let event: Event<'_> = serde_json::from_str(params.get())?;
        // The end of an earlier thread may still be heard of.
        if event.thread_id != Some(thread) {
            continue;
        }
        match method {
            "item/agentMessage/delta" => {
                first.get_or_insert_with(|| started.elapsed());
                text.push_str(&event.delta.unwrap_or_default());
            }
            "thread/tokenUsage/updated" => usage = event.token_usage.map(|usage| usage.last.total_tokens),
            "turn/completed" => break,
            "error" => bail!("the turn failed: {}", params.get()),
            _ => {}
        }
    }
    let total = started.elapsed();
    prompt.check("the direct answer", &text)?;
    usage.filter(|tokens| *tokens > 0).context("an answer without usage")?;
    Ok(Sample { first, total })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    thread_id: Option<&'a str>,
    delta: Option<String>,
    token_usage: Option<TokenUsage>,
}

#[derive(Debug, Deserialize)]
struct TokenUsage {
    last: LastUsage,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastUsage {
    total_tokens: u64,
}
