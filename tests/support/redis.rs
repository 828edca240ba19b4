//! A Redis or Valkey server of a test's own: on a free port, nothing kept, gone with the value.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A running server.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
}

impl RedisServer {
    /// Starts one. A machine without is a failure: `scripts/test` sees to it that there is one.
    pub(crate) fn start() -> Self {
        Self::start_if_installed()
            .expect("a redis-server or valkey-server; install one (Debian: apt install redis-server)")
    }

    /// Starts one, where there is one to start.
    pub(crate) fn start_if_installed() -> Option<Self> {
        // A free port may be taken by another before the server has it.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let port = port.expect("a free port").port();
            if let Some(child) = spawn(port) {
                return Some(Self { child, port });
            }
        }
        None
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it; its port stays known.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on the same port.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.port).expect("its port is free again");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The server, once it takes connections; `None` if it ended before.
fn spawn(port: u16) -> Option<Child> {
    for program in ["redis-server", "valkey-server"] {
        let spawned = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else { continue };
        let lines = BufReader::new(child.stdout.take()?).lines();
        if lines.map_while(Result::ok).any(|line| line.to_lowercase().contains("ready to accept connections"))
        {
            return Some(child);
        }
        let _ = child.wait();
    }
    None
}
