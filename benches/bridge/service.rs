//! A process of the built binary that says on standard output where it listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// From the start of the process to its listening.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From SIGTERM to its end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the log, where a run fails.
const LOG_LINES: usize = 20;

/// A running process. Told to stop when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    pid: u32,
    address: SocketAddr,
    /// Kept open: it may have more to say.
    out: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Service {
    /// Starts `command` and waits for the line that begins with `announcement`, then `http://`. Its standard
    /// error goes to `log`.
    pub(crate) async fn start(mut command: Command, announcement: &str, log: &Path) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(log)?);
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pid = child.id().context("it has ended at once")?;
        let out = child.stdout.take().context("no standard output")?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let out = BufReader::new(out).lines();
        let mut service = Self { child, pid, address, out, log: log.to_owned() };
        let listening = timeout(START_TIMEOUT, async {
            while let Some(line) = service.out.next_line().await? {
                let url = line.strip_prefix(announcement).map(str::trim_start);
                if let Some(address) = url.and_then(|url| url.strip_prefix("http://")) {
                    let address = address.split('/').next().unwrap_or_default();
                    return Ok(address.parse()?);
                }
            }
            bail!("it has ended without listening")
        });
        let listening = listening.await.unwrap_or_else(|_| bail!("it does not listen"));
        service.address = listening.with_context(|| service.last_log_lines())?;
        Ok(service)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// For a failed run.
    pub(crate) fn last_log_lines(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("the last lines of {}:\n{}", self.log.display(), last.join("\n"))
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// SIGTERM, and a clean end within the bound.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        terminate(self.pid);
        let status = timeout(STOP_TIMEOUT, self.child.wait()).await.context("it does not stop")??;
        if !status.success() {
            bail!("it ended with {status}: {}", self.last_log_lines());
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Not a kill: it may have a child to stop. Ended already, it has no id any more.
        if let Some(pid) = self.child.id() {
            terminate(pid);
        }
    }
}

fn terminate(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}
