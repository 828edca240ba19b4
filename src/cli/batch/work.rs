//! The rows that run, and how they are stopped.

use std::pin::pin;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Ended};
use super::output::{Line, Output};
use super::progress::{Progress, Summary};
use super::source::Source;

/// Lines written at once, at most.
const GROUP: usize = 64;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) concurrency: usize,
    /// Rows in all.
    pub(super) total: u64,
}

/// How it has ended.
#[derive(Debug)]
pub(super) enum End {
    /// Every row has a line.
    Done,
    Interrupted,
    /// The bridge takes nothing now, and why.
    Stopped(String),
}

/// Ctrl-C, and what a service manager sends.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Work {
    /// Runs every row that has no line yet. The first signal lets those that run end, the second one does not.
    pub(super) async fn run(&self, source: &Source, mut output: Output) -> anyhow::Result<(End, Summary)> {
        let mut interrupts = Interrupts::listen()?;
        let mut progress = Progress::new(self.total, &output);
        let stop = CancellationToken::new();
        let mut rows = source.open()?;
        let mut running = FuturesUnordered::new();
        let mut end = None;
        loop {
            while end.is_none() && running.len() < self.concurrency {
                let Some(row) = rows.next() else { break };
                // It was read once already: it has changed since.
                let row = row?;
                if !output.ids.contains(&row.custom_id) {
                    running.push(self.client.run(row, &stop));
                }
            }
            let ended = {
                let next = pin!(running.next());
                tokio::select! {
                    ended = next => ended,
                    () = interrupts.next() => {
                        if stop.is_cancelled() && matches!(end, Some(End::Interrupted)) {
                            break;
                        }
                        end = Some(End::Interrupted);
                        stop.cancel();
                        progress.say(&format!(
                            "interrupted: {} rows that run may end; once more to leave at once", running.len()
                        ));
                        continue;
                    }
                }
            };
            let Some(ended) = ended else { break };
            let mut lines: Vec<Line> = Vec::new();
            let mut next = Some(ended);
            while let Some(ended) = next {
                match ended {
                    Ended::Result(line) => lines.push(*line),
                    Ended::Stopped(why) => {
                        stop.cancel();
                        end.get_or_insert(End::Stopped(why));
                    }
                    Ended::Left => {}
                }
                next = if lines.len() < GROUP { running.next().now_or_never().flatten() } else { None };
            }
            if !lines.is_empty() {
                tokio::task::block_in_place(|| output.add(&lines))?;
            }
            progress.tell(&output);
        }
        Ok((end.unwrap_or(End::Done), progress.finish(&output)))
    }
}
