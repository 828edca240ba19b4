//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
const BAR: &str = "{bar:30} {pos}/{len} {per_sec}, {eta} left; {msg}";

/// What has come of the rows.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) good: u64,
    pub(super) failed: u64,
    input_tokens: u64,
    output_tokens: u64,
    time: Duration,
}

impl Summary {
    pub(super) fn rows(&self) -> u64 {
        self.good + self.failed
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { good, failed, input_tokens, output_tokens, time } = self;
        write!(
            f,
            "{good} rows done, {failed} failed, {input_tokens} tokens in, {output_tokens} out, {:.1} s",
            time.as_secs_f64()
        )
    }
}

/// The display.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    began: Instant,
    /// Rows that had their results before.
    before: u64,
    told: Instant,
}

impl Progress {
    pub(super) fn new(total: u64, output: &Output) -> Self {
        let before = output.ids.len() as u64;
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_position(before);
            // What was there is no part of the rate.
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self { bar, total, began: now, before, told: now }
    }

    /// Says how it stands.
    pub(super) fn tell(&mut self, output: &Output) {
        let summary = self.summary(output);
        let Summary { failed, input_tokens, output_tokens, .. } = summary;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{input_tokens} tokens in, {output_tokens} out, {failed} failed"));
            bar.set_position(summary.rows());
        } else if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            let left = self.left(summary.rows()).map_or_else(String::new, |left| format!(", {left} s left"));
            self.say(&format!("{}/{}: {summary}{left}", summary.rows(), self.total));
        }
    }

    /// A line of text that the bar does not write over.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| super::super::complain(text)),
            None => super::super::complain(text),
        }
    }

    pub(super) fn finish(self, output: &Output) -> Summary {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.summary(output)
    }

    fn summary(&self, output: &Output) -> Summary {
        Summary {
            good: output.ids.len() as u64 - output.failed.min(output.ids.len() as u64),
            failed: output.failed,
            input_tokens: output.used.input_tokens,
            output_tokens: output.used.output_tokens,
            time: self.began.elapsed(),
        }
    }

    /// Seconds, at the pace so far.
    fn left(&self, rows: u64) -> Option<u64> {
        let done = rows.checked_sub(self.before).filter(|done| *done > 0)?;
        let (passed, missing) = (self.began.elapsed().as_secs(), self.total.saturating_sub(rows));
        Some(passed * missing / done)
    }
}
