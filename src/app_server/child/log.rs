//! The child's standard error, line by line, into our log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes of one line that are kept; the rest of a longer one is dropped.
const LONGEST_LINE: usize = 2048;

/// Lines kept for the reason of a failed start.
const KEPT_LINES: usize = 8;

/// Lines forwarded in each `WINDOW`; the rest is counted and left out, so that a child gone wild fills no disk.
const LINES_PER_WINDOW: usize = 200;
const WINDOW: Duration = Duration::from_secs(10);

/// The last lines. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogTail {
    // A std mutex: held for a push or a copy, never across an await.
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl LogTail {
    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Forwards until the pipe closes or the daemon stops (something that outlived the child may hold it open).
pub(super) async fn forward(
    mut stderr: impl AsyncRead + Unpin + Send,
    tail: LogTail,
    stop: CancellationToken,
) {
    let mut lines = Lines::default();
    let mut window = Window::new();
    let mut buffer = vec![0; 8192];
    loop {
        // Cancel-safe: a cancelled read took nothing, and a window keeps its own state.
        let read = tokio::select! {
            read = stderr.read(&mut buffer) => read,
            () = tokio::time::sleep_until(window.end), if window.left_out > 0 => {
                window.begin();
                continue;
            }
            () = stop.cancelled() => break,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(count) => lines.feed(&buffer[..count], |line| take(&line, &tail, &mut window)),
        }
    }
    lines.finish(|line| take(&line, &tail, &mut window));
    window.begin();
}

fn take(line: &[u8], tail: &LogTail, window: &mut Window) {
    let line = plain(&String::from_utf8_lossy(line));
    if line.is_empty() {
        return;
    }
    if window.has_room() {
        log(&line);
    }
    tail.push(line);
}

fn log(line: &str) {
    // Its own levels stand in the line; what is an error to it is rarely one to us.
    if line.contains("ERROR") || line.contains("WARN") || line.contains("panicked") {
        tracing::warn!(target: "codex_app_server", "{line}");
    } else {
        tracing::info!(target: "codex_app_server", "{line}");
    }
}

/// How much was forwarded lately.
struct Window {
    end: Instant,
    forwarded: usize,
    left_out: usize,
}

impl Window {
    fn new() -> Self {
        Self { end: Instant::now() + WINDOW, forwarded: 0, left_out: 0 }
    }

    /// Whether one more line may be forwarded; counts it either way.
    fn has_room(&mut self) -> bool {
        if Instant::now() >= self.end {
            self.begin();
        }
        let room = self.forwarded < LINES_PER_WINDOW;
        if room {
            self.forwarded += 1;
        } else {
            self.left_out += 1;
        }
        room
    }

    /// Tells what the last one left out and begins anew.
    fn begin(&mut self) {
        if self.left_out > 0 {
            tracing::warn!(lines = self.left_out, "the app-server logs too much; lines were left out");
        }
        *self = Self::new();
    }
}

/// Splits bytes into lines of bounded length.
#[derive(Default)]
struct Lines {
    current: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(Vec<u8>)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.keep(&bytes[..end]);
            line(std::mem::take(&mut self.current));
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn finish(&mut self, line: impl FnOnce(Vec<u8>)) {
        if !self.current.is_empty() {
            line(std::mem::take(&mut self.current));
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.current.len());
        self.current.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Without colours and other control characters.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // `ESC [ … letter`
            if characters.next() == Some('[') {
                for inner in characters.by_ref() {
                    if inner.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
        } else if !character.is_control() || character == '\t' {
            text.push(character);
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |line| found.push(String::from_utf8(line).unwrap()));
        }
        lines.finish(|line| found.push(String::from_utf8(line).unwrap()));
        found
    }

    #[test]
    fn lines_come_whole_across_reads_and_never_too_long() {
        assert_eq!(split(&[b"one\ntw", b"o\n", b"\nlast"]), ["one", "two", "", "last"]);
        let long = vec![b'x'; LONGEST_LINE * 3];
        let found = split(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found[0].len(), LONGEST_LINE);
        assert_eq!(found[1..], ["next"]);
    }

    #[test]
    fn colours_and_controls_are_taken_out() {
        assert_eq!(plain("\u{1b}[2m12:00\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m a\u{7}\tb\r"), "12:00 ERROR a\tb");
        assert_eq!(plain("\u{1b}"), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_left_out() {
        let mut window = Window::new();
        let forwarded = (0..LINES_PER_WINDOW * 3).filter(|_| window.has_room()).count();
        assert_eq!((forwarded, window.left_out), (LINES_PER_WINDOW, LINES_PER_WINDOW * 2));
        tokio::time::advance(WINDOW).await;
        assert!(window.has_room());
        assert_eq!((window.forwarded, window.left_out), (1, 0));
    }

    #[tokio::test]
    async fn the_last_lines_are_kept() {
        let text = (0..20).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
        let tail = LogTail::default();
        forward(text.as_bytes(), tail.clone(), CancellationToken::new()).await;
        let lines = tail.lines();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines.last().unwrap(), "line 19");
    }
}
