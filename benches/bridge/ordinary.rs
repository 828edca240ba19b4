//! What a client of the app-server does that follows its documentation: WebSocket over TCP, one request
//! after the other, a thread started for each call.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::app_server::AppServer;
use crate::direct::{answer, inject, start_thread, thread_start, turn};
use crate::http::Sample;
use crate::process::CommandLine;
use crate::prompt::Prompt;
use crate::rpc::{self, Rpc};

/// The ordinary client.
#[derive(Debug)]
pub(crate) struct Ordinary {
    rpc: Rpc<TcpStream>,
    start: Value,
    /// To be let go.
    used: Option<String>,
    _app_server: AppServer,
}

impl Ordinary {
    /// Connects to an app-server of its own, started like `like`.
    pub(crate) async fn start(like: &CommandLine, folder: &Path, model: &str) -> anyhow::Result<Self> {
        let folder = folder.join("ordinary");
        std::fs::create_dir_all(&folder)?;
        let address = free_address().await?;
        let app_server = AppServer::start_like(like, &folder, format!("ws://{address}").as_ref())?;
        let rpc = rpc::connect(async || {
            let stream = TcpStream::connect(address).await?;
            // As WebSocket libraries do by themselves. Quick acknowledgement none of them does.
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        Ok(Self {
            rpc: rpc.await?,
            start: thread_start(model, &folder)?,
            used: None,
            _app_server: app_server,
        })
    }

    /// One measured call.
    pub(crate) async fn call(&mut self, prompt: &Prompt) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let thread = start_thread(&mut self.rpc, &self.start).await?;
        self.rpc.call("thread/inject_items", &inject(&thread, prompt)).await?;
        let request = self.rpc.feed("turn/start", &turn(&thread)).await?;
        self.rpc.flush().await?;
        let sample = answer(&mut self.rpc, &thread, request, started, prompt).await?;
        self.used = Some(thread);
        Ok(sample)
    }

    /// Lets the thread go, so that memory stays alike for all.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        if let Some(used) = self.used.take() {
            self.rpc.call("thread/unsubscribe", &json!({"threadId": used})).await?;
        }
        Ok(())
    }
}

/// Free a moment ago.
async fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
