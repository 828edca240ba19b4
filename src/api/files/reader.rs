//! Reading a PDF in a child of our own program: bounded in number, time, memory and output, killed when nobody
//! waits for it any more.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::pdf::{Limits, PdfFault};
use crate::tasks::tether::{self, Tethered};

/// PDFs being read at once; the others wait. With the memory limit this bounds what they can take.
const AT_ONCE: usize = 2;

/// Reads PDFs.
#[derive(Debug)]
pub(super) struct PdfReader {
    /// Our own program, whose hidden subcommand does the work.
    program: Option<PathBuf>,
    limits: Limits,
    at_work: Semaphore,
}

/// Why there is no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// The file's fault.
    Fault(PdfFault),
    /// It took too long.
    Late(Duration),
    /// Ours: the child could not be run.
    NotRun(String),
}

impl PdfReader {
    pub(super) fn new(program: Option<PathBuf>, limits: Limits) -> Self {
        Self { program, limits, at_work: Semaphore::new(AT_ONCE) }
    }

    /// The PDF's text. Dropped, it kills the child.
    pub(super) async fn text(&self, pdf: Bytes) -> Result<String, Unread> {
        let _at_work = self.at_work.acquire().await.map_err(|error| Unread::NotRun(error.to_string()))?;
        let limit = self.limits.time;
        tokio::time::timeout(limit, self.read(pdf)).await.map_err(|_| Unread::Late(limit))?
    }

    async fn read(&self, pdf: Bytes) -> Result<String, Unread> {
        let not_run = |error: std::io::Error| Unread::NotRun(error.to_string());
        let mut child = self.spawn()?;
        let (mut stdin, stdout) = (child.stdin(), child.stdout());
        let feed = async {
            if let Some(mut stdin) = stdin.take() {
                // It may end before it has read everything; how it ended is what counts.
                let _ = stdin.write_all(&pdf).await;
            }
        };
        let most = u64::try_from(self.limits.text).unwrap_or(u64::MAX).saturating_add(1);
        let listen = async {
            let mut text = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(most).read_to_end(&mut text).await?;
            }
            Ok(text)
        };
        let ((), text) = tokio::join!(feed, listen);
        let text = text.map_err(not_run)?;
        let status = child.ended().await.map_err(not_run)?;
        if !status.success() {
            tracing::debug!(%status, "a PDF could not be read");
            return Err(Unread::Fault(PdfFault::of_code(status.code())));
        }
        let text = String::from_utf8(text).map_err(|_| Unread::Fault(PdfFault::Damaged))?;
        if text.len() > self.limits.text { Err(Unread::Fault(PdfFault::Text)) } else { Ok(text) }
    }

    /// The child gets nothing of ours but the file: no environment, no folder, and what it complains of is its
    /// own affair.
    fn spawn(&self) -> Result<Tethered, Unread> {
        let program =
            self.program.as_ref().ok_or_else(|| Unread::NotRun("our own program is not known".into()))?;
        let Limits { pages, text, memory, time } = self.limits;
        let mut command = tether::command(program, Some(program));
        command
            .arg("extract-pdf")
            .args(["--pages", &pages.to_string(), "--text", &text.to_string()])
            .args(["--memory", &memory.to_string(), "--seconds", &time.as_secs_f64().to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Tethered::spawn(command).map_err(|error| Unread::NotRun(error.to_string()))
    }
}
